"""An HTTP client for servers that generate: short requests, and bodies that are streamed for minutes.

Every request has a connection of its own, which ends with it: closing it is how a server learns that nobody waits for
an answer any more. Redirects, cookies, proxies of the environment and compressed bodies are not supported.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import httptools

from modules.core import quick_json, request_route
from modules.core.errors import OptionError, WebUIError, Words
from modules.core.events import Json
from modules.core.server_errors import (
    ServerLost,
    ServerNotTrusted,
    ServerNotUnderstood,
    ServerRedirects,
    ServerSilent,
    ServerUnreachable,
)
from modules.engines.served.event_stream import EventTooLong, JsonLines, ServerSentEvents
from modules.engines.served.faults import (
    LONGEST_REFUSAL,
    WEBPAGE,
    has_error,
    has_json,
    has_webpage,
    reason,
    refusal,
    silence,
)
from modules.engines.served.target import Target
from modules.system.timeout import timeout

CONNECT_SECONDS = 10.0
LONGEST_HEAD = 64 << 10
"""Bytes of the status line and the headers, or of anything else that is no body."""
LONGEST_BODY = 64 << 20
"""Bytes of the response to a short request. The log-probabilities of a long prompt take some 10 MB."""
GRACE_SECONDS = 5.0
"""Seconds that a stream whose answer is complete may go on, with counts of its tokens."""

Take = Callable[[list[bytes]], None]
"""Called in the event loop with the events that have just arrived. An error that it raises ends the stream."""

_REDIRECTS = range(300, 400)
_OK = range(200, 300)
_NO_CONTENT = 204
_CLOSED: Words = {"en": "the server closed it", "zh": "服务器关闭了连接"}
_TOO_LONG: Words = {"en": "it is too long", "zh": "内容过长"}
_NOT_HTTP: Words = {"en": "it is not HTTP", "zh": "不是 HTTP 响应"}
_NO_CA: Words = {"en": "a file of PEM certificates", "zh": "PEM 证书文件"}
_NO_EVENTS: Words = {"en": "it is not a stream of events", "zh": "不是事件流"}
_COMPRESSED: Words = {"en": "it is compressed", "zh": "内容经过压缩"}


@dataclass(frozen=True)
class Response:
    """The whole response to a short request. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_ok(self) -> bool:
        return self.status in _OK

    def json(self) -> Json:
        """Return the value of the body. Raises ValueError if it is not JSON."""
        return json.loads(self.body)


class HttpClient:
    """Sends requests to one server. All calls happen in one event loop.

    Raises OptionError while it is made if the file of the certificate authority cannot be used.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._context = _tls_context(target)

    async def request(
        self, path: str, body: Json = None, *, seconds: float = CONNECT_SECONDS, limit: int = LONGEST_BODY
    ) -> Response:
        """Send a GET request, or a POST request with `body` as JSON, and return the response, whatever its status.

        Raises ServerUnreachable, ServerNotTrusted, ServerLost, ServerRedirects or ServerNotUnderstood; ServerSilent if
        the response has not arrived within `seconds`.
        """
        chunks = bytearray()

        def keep(chunk: bytes) -> None:
            chunks.extend(chunk)
            if len(chunks) > limit:
                raise self._not_understood(path, _TOO_LONG)

        try:
            async with timeout(seconds), self._exchange(path, body) as exchange:
                await exchange.head
                exchange.take = keep
                await exchange.end
        except TimeoutError:
            raise ServerSilent(self.target.origin, silence(seconds)) from None
        return Response(exchange.status, exchange.headers, bytes(chunks))

    async def stream(self, stream: EventStream) -> None:
        """Send the request of a stream and hand out its events until the response ends; cancelling closes it.

        Raises an error of `request`, or the one of `faults.refusal` for a status of 400 or more, or for JSON with an
        error instead of events; ServerSilent after so many seconds without a byte as the stream allows.
        """
        async with self._exchange(stream.path, stream.body) as exchange:
            with stream.listening(exchange):
                await self._pass_on(stream, exchange)

    async def _pass_on(self, stream: EventStream, exchange: _Exchange) -> None:
        """Hand out the events of a stream until the response ends. Raises what `stream` raises."""
        await exchange.head
        if exchange.status not in _OK:
            raise await self._refused(exchange)
        if has_webpage(exchange.headers):
            raise self._not_understood(stream.path, WEBPAGE)
        if exchange.status == _NO_CONTENT:
            raise self._not_understood(stream.path, _NO_EVENTS)
        whole = bytearray()  # as far as it may be one JSON value instead of events

        def take(chunk: bytes) -> None:
            if not stream.has_events and len(whole) < LONGEST_REFUSAL:
                whole.extend(chunk)
            try:
                events = stream.decoder.feed(chunk)
            except EventTooLong:
                raise self._not_understood(stream.path, _TOO_LONG) from None
            if events:
                stream.has_events = True
                stream.take(events)

        exchange.take = take
        await exchange.end
        if events := stream.decoder.finish():
            stream.take(events)
        elif not stream.has_events and has_json(exchange.headers):
            if has_error(bytes(whole)):
                raise refusal(self.target, exchange.status, exchange.headers, bytes(whole))
            raise self._not_understood(stream.path, _NO_EVENTS)

    async def _refused(self, exchange: _Exchange) -> WebUIError:
        """Return the error of a response with another status than 2xx, in the server's words as far as they came."""
        words = bytearray()

        def keep(chunk: bytes) -> None:
            words.extend(chunk)
            if len(words) > LONGEST_REFUSAL:
                exchange.finish()

        exchange.take = keep
        with contextlib.suppress(WebUIError, TimeoutError):
            async with timeout(GRACE_SECONDS):
                await exchange.end
        return refusal(self.target, exchange.status, exchange.headers, bytes(words))

    @contextlib.asynccontextmanager
    async def _exchange(self, path: str, body: Json) -> AsyncIterator[_Exchange]:
        """Connect and send a request; close the connection at the end."""
        exchange = _Exchange(self.target, path, _request(self.target, path, body))
        try:
            await self._connect(exchange)
            yield exchange
        finally:
            exchange.abandon()

    async def _connect(self, exchange: _Exchange) -> None:
        loop, target = asyncio.get_running_loop(), self.target
        try:
            async with timeout(CONNECT_SECONDS):
                if target.socket:
                    await loop.create_unix_connection(lambda: exchange, target.socket)
                else:
                    await loop.create_connection(lambda: exchange, target.host, target.port, ssl=self._context)
        except ssl.SSLCertVerificationError as error:
            raise ServerNotTrusted(target.origin, error.verify_message.rstrip(".")) from None
        except TimeoutError:
            raise ServerUnreachable(target.origin, silence(CONNECT_SECONDS)) from None
        except (OSError, UnicodeError) as error:  # refused, no route, unknown name, no TLS; a name that none can have
            raise ServerUnreachable(target.origin, reason(error)) from None

    def _not_understood(self, path: str, why: Words) -> ServerNotUnderstood:
        return ServerNotUnderstood(self.target.origin, path, why)


class EventStream:
    """A request whose response is a stream of events, and the control of it. All calls happen in the event loop.

    `allowed_silence` are the seconds that the server may send nothing, which count from the last byte. `deadline` is
    the loop's time until which it may send anything. Both may be changed while the stream is waited for.
    """

    def __init__(self, path: str, body: Json, take: Take, *, allowed_silence: float, is_ndjson: bool = False) -> None:
        self.path, self.body, self.take = path, body, take
        self.allowed_silence, self.deadline = allowed_silence, float("inf")
        self.decoder: JsonLines | ServerSentEvents = JsonLines() if is_ndjson else ServerSentEvents()
        self.is_paused = False
        self.has_events = False
        self._exchange: _Exchange | None = None
        self._timer: asyncio.TimerHandle

    @contextlib.contextmanager
    def listening(self, exchange: _Exchange) -> Iterator[None]:
        """Let the exchange fail with ServerSilent, during the block, when the server has been silent for too long."""
        self._exchange = exchange
        self._set_timer(exchange)
        try:
            yield
        finally:
            self._timer.cancel()

    def _set_timer(self, exchange: _Exchange) -> None:
        self._timer = exchange.loop.call_at(self._ends_at(exchange), self._look, exchange)

    def _ends_at(self, exchange: _Exchange) -> float:
        return min(exchange.heard_at + self.allowed_silence, self.deadline)

    def _look(self, exchange: _Exchange) -> None:
        """Let the exchange fail, unless something has come meanwhile."""
        now = exchange.loop.time()
        if self.is_paused:
            exchange.heard_at = now
        if self._ends_at(exchange) <= now:
            exchange.fail(ServerSilent(exchange.target.origin, silence(self.allowed_silence)))
        else:
            self._set_timer(exchange)

    def allow(self, seconds: float, longest: float = float("inf")) -> None:
        """Allow so many `seconds` of silence from now on, and nothing at all after the `longest`."""
        self.allowed_silence = seconds
        self.deadline = asyncio.get_running_loop().time() + longest
        if self._exchange is not None:
            self._timer.cancel()
            self._set_timer(self._exchange)

    def pause(self) -> None:
        """Read no more from the server, whose writes then wait. Silence does not count meanwhile."""
        if not self.is_paused and self._exchange is not None:
            self._exchange.transport.pause_reading()
            self.is_paused = True

    def resume(self) -> None:
        if self.is_paused and self._exchange is not None and not self._exchange.transport.is_closing():
            self._exchange.heard_at = self._exchange.loop.time()
            self._exchange.transport.resume_reading()
        self.is_paused = False

    def finish(self) -> None:
        """End the stream as complete, whatever else the server might send."""
        if self._exchange is not None:
            self._exchange.finish()


class _Exchange(asyncio.Protocol):
    """A request and its response on a connection of its own. `head` and `end` say how far the response is.

    `take` gets the chunks of the body; those that arrive before it is set are kept for it.
    """

    def __init__(self, target: Target, path: str, request: bytes) -> None:
        self.target, self._path, self._request = target, path, request
        self.loop = asyncio.get_running_loop()
        self.head: asyncio.Future[None] = self.loop.create_future()
        self.end: asyncio.Future[None] = self.loop.create_future()
        self.heard_at = self.loop.time()
        self.headers: dict[str, str] = {}
        self.status = 0
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpResponseParser(self)
        self._size_without_body = 0  # of headers, trailers and extensions of chunks
        self._early: list[bytes] = []
        self._take: Callable[[bytes], None] | None = None

    @property
    def take(self) -> Callable[[bytes], None] | None:
        return self._take

    @take.setter
    def take(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        for chunk in self._early:
            take(chunk)
        self._early.clear()

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.heard_at = self.loop.time()
        self.transport.write(self._request)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        self._size_without_body += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self.fail(error.__context__ or error)  # a defect of ours
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.fail(self._not_understood(_NOT_HTTP))
        if self._size_without_body > LONGEST_HEAD:
            self.fail(self._not_understood(_TOO_LONG))

    def connection_lost(self, error: Exception | None) -> None:
        has_length = "content-length" in self.headers or "transfer-encoding" in self.headers
        if error is None and self.head.done() and not has_length:
            self.finish()  # the end of the connection is the end of the body
        else:
            self.fail(ServerLost(self.target.origin, _CLOSED if error is None else reason(error)))

    def finish(self) -> None:
        """End the exchange as complete."""
        if not self.end.done():
            self.end.set_result(None)

    def abandon(self) -> None:
        """Close the connection, without waiting for what has not been sent. May be called again."""
        if self.transport is not None:
            self.transport.abort()
        for future in (self.head, self.end):
            if not future.cancel() and not future.cancelled():
                future.exception()  # as nobody else may have asked, asyncio would log it

    def fail(self, error: BaseException) -> None:
        """End the exchange with an error, as far as it has not ended."""
        for future in (self.head, self.end):
            if not future.done():
                future.set_exception(error)
        if self.transport is not None:
            self.transport.abort()

    def _not_understood(self, why: Words) -> ServerNotUnderstood:
        return ServerNotUnderstood(self.target.origin, self._path, why)

    # The parser calls these; it hides errors that they raise.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status in _REDIRECTS:
            location = self.headers.get("location", "")[:200]
            self.fail(ServerRedirects(self.target.origin, location))
        elif self.headers.get("content-encoding", "identity") not in ("identity", ""):
            self.fail(self._not_understood(_COMPRESSED))
        elif self.status >= min(_OK) and not self.head.done():
            self.head.set_result(None)

    def on_body(self, chunk: bytes) -> None:
        self._size_without_body = 0
        if self.end.done():
            return
        if self._take is None:
            self._early.append(chunk)
            return
        try:
            self._take(chunk)
        except WebUIError as error:
            self.fail(error)

    def on_message_complete(self) -> None:
        if self.status >= min(_OK):  # below, another response follows
            self.finish()


def _request(target: Target, path: str, body: Json) -> bytes:
    """Return the bytes of a GET request, or of a POST request with `body` as JSON."""
    content = b"" if body is None else quick_json.encode(body, replaces=True)
    lines = [
        f"{'GET' if body is None else 'POST'} {target.path(path)} HTTP/1.1",
        f"Host: {target.authority}",
        "Accept: application/json, text/event-stream, application/x-ndjson",
        "Accept-Encoding: identity",
        f"{request_route.HEADER}: {request_route.header_value()}",
        "Connection: close",
    ]
    if target.key:
        lines.append(f"Authorization: Bearer {target.key}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + content


def _tls_context(target: Target) -> ssl.SSLContext | None:
    """Return the settings of TLS: certificates are verified, by the system's authorities or by `ca` alone."""
    if not target.is_secure:
        return None
    try:
        return ssl.create_default_context(cafile=target.ca or None)
    except OSError:  # not there, or without certificates
        raise OptionError("server_ca", target.ca, _NO_CA) from None
