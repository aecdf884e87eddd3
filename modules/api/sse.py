"""Stream answers as server-sent events, with a sign of life whenever there is nothing to send for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from modules.api.answers import Answers
from modules.api.errors import error_body
from modules.api.responses import sse_event
from modules.api.while_connected import WhileConnected
from modules.core.errors import WebUIError
from modules.core.events import Done, Text

SILENCE_SECONDS = 10.0
"""How long a stream sends nothing: proxies and clients close one that seems dead."""

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


@dataclass(frozen=True)
class StreamStyle:
    """A kind of stream: the event that bridges silence, and the one that reports an error in a language."""

    silence: bytes
    error: Callable[[WebUIError, str], bytes]


OPENAI = StreamStyle(b": waiting\n\n", lambda error, language: sse_event(error_body(error, language)))
"""OpenAI's clients raise an error for such an event."""


class EventStream:
    """A response: send the answers that `begin` begins, and stop them when the client leaves.

    It starts when they have begun, so that a refusal has its status. If that takes long, it starts before, and a
    refusal is an event. It runs in the task of its request: further tasks would cost as much as a short answer.
    """

    def __init__(self, begin: Callable[[], Awaitable[Answers]], style: StreamStyle, language: str) -> None:
        self._begin, self._style, self._language = begin, style, language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events. Raises what `begin` raises, and ClientDisconnect, before the response starts."""
        sender = _Sender(send, self._style.silence)
        try:
            async with WhileConnected(receive):
                await self._write(sender)
        except ClientDisconnect:
            if not sender.has_started:
                raise
        finally:
            sender.close()

    async def _write(self, sender: _Sender) -> None:
        try:
            answers = await self._begin()
        except WebUIError as error:
            if not sender.has_started:
                raise
            await sender.send(self._style.error(error, self._language), last=True)
            return
        try:
            await sender.start(answers.headers)
            await self._send_events(answers, sender)
        finally:
            answers.close()

    async def _send_events(self, answers: Answers, sender: _Sender) -> None:
        """Send the events of all answers, those that arrived together as one message."""
        builder, generations = answers.builder, answers.generations
        buffered = b"".join(builder.sse_opening(number) for number in range(answers.count))
        running = answers.count
        try:
            while replies := await generations.take():
                for number, reply in replies:
                    if isinstance(reply, Text):
                        buffered += builder.sse_text(number, reply)
                    elif isinstance(reply, Done):
                        running -= 1
                        buffered += builder.sse_end(number, reply, last=running == 0)
                if buffered and running:
                    await sender.send(buffered)
                    buffered = b""
            buffered += builder.sse_closing(generations.finished)
        except WebUIError as error:
            buffered += self._style.error(error, self._language)
        await sender.send(buffered, last=True)


class _Sender:
    """Send the messages of a response, and `silence` after SILENCE_SECONDS without any."""

    def __init__(self, send: Send, silence: bytes) -> None:
        self._send, self._silence = send, silence
        self.has_started = self._is_sending = self._has_ended = False
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._bridging: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(SILENCE_SECONDS, self._look)

    async def start(self, headers: Mapping[str, str]) -> None:
        """Send the status and the headers, unless that has been done."""
        if not self.has_started:
            self.has_started = True
            more = ((name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in headers.items())
            await self._pass_on({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *more]})

    async def send(self, events: bytes, *, last: bool = False) -> None:
        self._has_ended = last
        await self._pass_on({"type": "http.response.body", "body": events, "more_body": not last})

    async def _pass_on(self, message: Message) -> None:
        self._is_sending = True
        try:
            await self._send(message)
        except OSError:  # by its protocol, a server raises one when the client is gone
            raise ClientDisconnect from None
        self._is_sending, self._sent_at = False, self._loop.time()

    def _look(self) -> None:
        """Bridge the silence, unless something was sent a short time ago, or waits for the client to read."""
        now = self._loop.time()
        if self._is_sending or self._has_ended:
            self._sent_at = now
        elif self._sent_at + SILENCE_SECONDS <= now:
            self._sent_at = now
            self._bridging = asyncio.create_task(self._break_silence())
        pause = max(self._sent_at + SILENCE_SECONDS - now, SILENCE_SECONDS / 100)
        self._timer = self._loop.call_later(pause, self._look)

    async def _break_silence(self) -> None:
        if self._is_sending or self._has_ended:  # since a moment ago
            return
        with suppress(ClientDisconnect):  # which is noticed elsewhere
            await self.start({})
            if not self._has_ended:
                await self.send(self._silence)

    def close(self) -> None:
        """Send nothing more."""
        self._timer.cancel()
        if self._bridging is not None:
            self._bridging.cancel()
