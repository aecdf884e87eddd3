"""Turn failed exchanges with a server into errors: refusals by their status, faults of a connection by their reason."""

from __future__ import annotations

import errno
import json
import re
import socket
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from modules.core.errors import Words, both
from modules.core.events import Json
from modules.core.server_errors import (
    LONGEST_WAIT,
    ServerBusy,
    ServerDenied,
    ServerFailed,
    ServerIsOurs,
    ServerLacks,
    ServerRefused,
)
from modules.engines.served.target import Target

LONGEST_REFUSAL = 64 << 10
"""Bytes that are read of a response that refuses a request."""
LONGEST_WORDS = 400
"""Characters of a server's message that are shown."""

WEBPAGE: Words = {"en": "it is a web page", "zh": "返回的是网页"}
_REFUSED: Words = {"en": "connection refused", "zh": "连接被拒绝"}
_RESET: Words = {"en": "connection reset", "zh": "连接被重置"}
_UNKNOWN_NAME: Words = {"en": "its name is unknown", "zh": "找不到该主机名"}
_NO_ROUTE: Words = {"en": "no route to it", "zh": "网络不可达"}
_NO_SOCKET: Words = {"en": "its socket does not exist", "zh": "套接字文件不存在"}
_REASONS: Mapping[int, Words] = {
    errno.ECONNREFUSED: _REFUSED,
    errno.ECONNRESET: _RESET,
    errno.EPIPE: _RESET,
    errno.EHOSTUNREACH: _NO_ROUTE,
    errno.ENETUNREACH: _NO_ROUTE,
    errno.ENOENT: _NO_SOCKET,
}
_KINDS: Mapping[int, type[ServerRefused]] = {
    401: ServerDenied,
    403: ServerDenied,
    404: ServerLacks,
    405: ServerLacks,
    429: ServerBusy,
    508: ServerIsOurs,
}
_NO_WORDS = "(no message)"


def refusal(target: Target, status: int, headers: Mapping[str, str], body: bytes) -> ServerRefused:
    """Return the error of a response with a status of 400 or more."""
    words = _NO_WORDS if has_webpage(headers) else server_words(target, body)
    kind = _KINDS.get(status, ServerFailed if status >= 500 else ServerRefused)
    words = words or _NO_WORDS
    more_follows = issubclass(kind, ServerDenied | ServerBusy | ServerFailed | ServerLacks)
    return kind(target.origin, status, sentence(words) if more_follows else words, wait_of(headers))


def sentence(words: str) -> str:
    """Return the words of a server with a full stop, if they end without one."""
    return words if words[-1:] in ".!?。！？" else f"{words}."


def wait_of(headers: Mapping[str, str]) -> float:
    """Return the seconds of a Retry-After header, at most LONGEST_WAIT; 0 for none or one that cannot be read."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) else _seconds_until(text)
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), float(LONGEST_WAIT))


def _seconds_until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()


def has_webpage(headers: Mapping[str, str]) -> bool:
    """Tell whether the body of a response is HTML, as those of proxies and of other programs are."""
    return headers.get("content-type", "").lower().startswith("text/html")


def has_json(headers: Mapping[str, str]) -> bool:
    """Tell whether the body of a response is one JSON value."""
    return headers.get("content-type", "").lower().startswith("application/json")


def has_error(body: bytes) -> bool:
    """Tell whether the body of a response reports an error."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(value.get("error"))


def server_words(target: Target, body: bytes) -> str:
    """Return the message in the body of a response, shortened to one line and without the key."""
    try:
        message = _message(json.loads(body))
    except (ValueError, RecursionError):
        message = body.decode("utf-8", "replace")
    return shown(target, message)


def shown(target: Target, message: str) -> str:
    """Return a message of the server in one short line, without the key."""
    if target.key:
        for written in (json.dumps(target.key)[1:-1], target.key):
            message = message.replace(written, "***")
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", " ", message[: 4 * LONGEST_WORDS]).split())
    return line if len(line) <= LONGEST_WORDS else f"{line[: LONGEST_WORDS - 1]}…"


def _message(body: Json) -> str:
    """Return the message in an error of OpenAI's form, Ollama's, or FastAPI's; else the whole body."""
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(key):
            return _message(body[key])
    return body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)


def reason(error: Exception) -> Words:
    """Return why a connection could not be made, or broke."""
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return _UNKNOWN_NAME
    number = getattr(error, "errno", None)
    if number is None and f"[Errno {errno.ECONNREFUSED}]" in str(error):
        number = errno.ECONNREFUSED  # asyncio has tried several addresses
    return _REASONS.get(number or 0) or both(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def silence(seconds: float) -> Words:
    """Return that nothing came for so long."""
    return {"en": f"nothing came for {seconds:g} s", "zh": f"{seconds:g} 秒内没有收到任何数据"}
