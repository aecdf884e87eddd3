"""Bounds on what a request may ask for, so that none takes everybody's time or memory. docs/security.md lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.api.errors import MAX_NESTING, error_response, too_deep
from modules.core.errors import OptionError, Words

MAX_BODY_BYTES = 32_000_000
ROUTE_LIMITS = {
    "/v1/internal/decode": 3_000_000,
    "/detokenize": 3_000_000,
    "/chat/import": 50_000_000,
    "/training/upload": 100_000_000,
}
"""Limits of single routes: parsing a long list as JSON takes the time of all others; files are larger."""
MAX_DISCARDED_BYTES = 256_000_000
"""How much of a refused body is read and dropped: most clients look for an answer only when they have sent all."""
MAX_VALUES = 1_000_000
"""Values in the lists and objects of a body: checking them takes the time of all others."""
UNCOUNTED_BYTES = 1_000_000
"""JSON of this size is parsed before its values are counted. Of larger JSON, commas and opening brackets are counted
before: 4 MB of empty lists would hold up all others for a tenth of a second, and 32 MB take 900 MB. A text with more of
them than MAX_VALUES has more tokens than models can read."""
MAX_MESSAGES = 4096
MAX_ANSWERS = 128
MAX_CHARACTERS = 2_000_000
"""Characters of a text to encode or count, or of all texts to embed or to rank."""
MAX_INPUTS = 2048
"""Texts of one request for embeddings, as at OpenAI."""
MAX_DOCUMENTS = 1024
"""Documents of one request to rank."""
MAX_TOKENS = 262_144
"""Tokens to decode, or to embed."""

_TOO_LARGE: Words = {
    "en": "What was sent is too large: at most {limit} MB are accepted.",
    "zh": "发送的内容过大，最多接受 {limit} MB。",
}
_VALUES: Words = {"en": f"at most {MAX_VALUES} values in one body", "zh": f"单个请求体不超过 {MAX_VALUES} 个值"}
_TOO_MANY: Words = {
    "en": f"The body has more than {MAX_VALUES} values.",
    "zh": f"请求体包含的值超过 {MAX_VALUES} 个。",
}
_MESSAGES: Words = {"en": f"at most {MAX_MESSAGES} messages", "zh": f"不超过 {MAX_MESSAGES} 条的消息列表"}
_ANSWERS: Words = {
    "en": f"at most {MAX_ANSWERS} answers in one request, prompts times n",
    "zh": f"单次请求不超过 {MAX_ANSWERS} 个回复（提示词数 × n）",
}
_TEXT: Words = {"en": f"a text of at most {MAX_CHARACTERS} characters", "zh": f"不超过 {MAX_CHARACTERS} 个字符的文本"}
_TOKENS: Words = {"en": f"at most {MAX_TOKENS} token numbers", "zh": f"不超过 {MAX_TOKENS} 个词符编号"}


def check_request(raw: Mapping[str, Any]) -> None:
    """Raise OptionError if a decoded body exceeds one of the bounds. Values of wrong types are left to others."""
    messages, prompt, n = raw.get("messages"), raw.get("prompt"), raw.get("n")
    if isinstance(messages, list) and len(messages) > MAX_MESSAGES:
        raise OptionError("messages", len(messages), _MESSAGES)
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    answers = prompts * (n if isinstance(n, int) and n > 0 else 1)
    if answers > MAX_ANSWERS:
        raise OptionError("n" if prompts == 1 else "prompt", answers, _ANSWERS)
    for name in ("text", "content"):
        text = raw.get(name)
        if isinstance(text, str) and len(text) > MAX_CHARACTERS:
            raise OptionError(name, len(text), _TEXT)
    tokens = raw.get("tokens")
    if isinstance(tokens, list) and len(tokens) > MAX_TOKENS:
        raise OptionError("tokens", len(tokens), _TOKENS)
    _check_values(raw)


def _check_values(raw: Mapping[str, Any]) -> None:
    """Raise OptionError if a body has too many values, or is nested too deeply."""
    count, level = 0, [raw]
    for _ in range(MAX_NESTING):
        count += sum(map(len, level))
        if count > MAX_VALUES:
            raise OptionError("body", count, _VALUES)
        level = _containers_in(level)
        if not level:
            return
    raise too_deep()


def is_nested_deeper(raw: object, levels: int) -> bool:
    """Return whether lists and objects lie within each other more than `levels` deep, going level by level."""
    level = [raw]
    for _ in range(levels):
        level = _containers_in(level)
        if not level:
            return False
    return True


def _containers_in(containers: Sequence[Any]) -> list[Any]:
    """Return the lists and objects that lie directly in these."""
    return [
        child
        for parent in containers
        for child in (parent.values() if isinstance(parent, dict) else parent)
        if isinstance(child, (dict, list))
    ]


class BodyLimit:
    """ASGI middleware: answer 413 to a body of more than `limit` bytes, as soon as that is known.

    Those in ROUTE_LIMITS have limits of their own. JSON with too many values is answered 400.
    """

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = ROUTE_LIMITS.get(scope["path"].rstrip("/"), self._limit)
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "0")
        if not announced.isdecimal() or int(announced) > limit:
            if announced.isdecimal():
                await _discard(receive, int(announced))
            await _too_large(limit, scope)(scope, receive, send)
            return
        is_json = "json" in headers.get("content-type", "").lower() and limit == self._limit  # not a file
        received = separators = 0
        more, started = True, False
        refusal: Response | None = None

        async def counted_receive() -> Message:
            nonlocal received, separators, more, refusal
            message = await receive()
            body = message.get("body", b"")
            received, more = received + len(body), message.get("more_body", False)
            separators += sum(map(body.count, (b",", b"[", b"{"))) if is_json else 0
            if received > limit:
                refusal = _too_large(limit, scope)
            elif received > UNCOUNTED_BYTES and separators > MAX_VALUES:
                refusal = _refusal(scope, 400, "invalid_value", _TOO_MANY)
            return message if refusal is None else {"type": "http.disconnect"}  # whoever reads the body gives up

        async def own_send(message: Message) -> None:
            nonlocal started
            if refusal is None or started:
                started = True
                await send(message)

        try:
            await self._app(scope, counted_receive, own_send)
        except ClientDisconnect:
            if refusal is None:
                raise
        if refusal is not None and not started:
            if more:
                await _discard(receive)
            await refusal(scope, receive, send)


def _too_large(limit: int, scope: Scope) -> Response:
    words = {language: text.format(limit=f"{limit / 10**6:g}") for language, text in _TOO_LARGE.items()}
    return _refusal(scope, 413, "body_too_large", words)


def _refusal(scope: Scope, status: int, code: str, words: Words) -> Response:
    headers = {"Connection": "close"}  # what has not been read of the body would be taken for the next request
    return error_response(scope, status, code, words, headers)


async def _discard(receive: Receive, announced: int = 0) -> None:
    """Read the rest of a body, unless it is too long for that."""
    left, more = MAX_DISCARDED_BYTES, announced <= MAX_DISCARDED_BYTES
    while more and left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        more = message.get("more_body", False)
