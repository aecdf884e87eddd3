"""Stream answers as server-sent events, with a sign of life whenever there is nothing to send for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from modules.api.answers import Answers
from modules.api.errors import error_body
from modules.api.responses import sse_event
from modules.core.errors import WebUIError
from modules.core.events import Done, Text

SILENCE_SECONDS = 10.0
"""How long a stream sends nothing: proxies and clients close one that seems dead."""


@dataclass(frozen=True)
class StreamStyle:
    """A kind of stream: the event that bridges silence, and the one that reports an error in a language."""

    silence: bytes
    error: Callable[[WebUIError, str], bytes]


OPENAI = StreamStyle(b": waiting\n\n", lambda error, language: sse_event(error_body(error, language)))
"""OpenAI's clients raise an error for such an event."""


class EventStream(StreamingResponse):
    """Send the answers that `beginning` returns; stop them when the response ends or the client leaves.

    `leaving` ends when the client disconnects. It is cancelled with the response.
    """

    def __init__(
        self,
        beginning: asyncio.Task[Answers],
        leaving: asyncio.Task[None],
        style: StreamStyle,
        language: str,
        headers: Mapping[str, str],
    ) -> None:
        fixed = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(
            _events(beginning, style, language), headers={**fixed, **headers}, media_type="text/event-stream"
        )
        self._beginning, self._leaving, self._silence = beginning, leaving, style.silence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events. Starlette's own method starts a group of tasks, which costs as much as a short answer."""
        bridge = _SilenceBridge(send, self._silence)
        streaming = asyncio.create_task(self.stream_response(bridge.send))
        either = (streaming, self._leaving)
        try:
            while not (await asyncio.wait(either, timeout=bridge.seconds, return_when=asyncio.FIRST_COMPLETED))[0]:
                await bridge.break_silence()
            if streaming.done():
                streaming.result()
        finally:
            self._leaving.cancel()
            streaming.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await streaming
            await discard(self._beginning)


class _SilenceBridge:
    """Pass on the messages of a response, and send `silence` after SILENCE_SECONDS without any."""

    def __init__(self, send: Send, silence: bytes) -> None:
        self._send, self._silence = send, silence
        self._started = self._is_sending = self._ended = False
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()

    async def send(self, message: Message) -> None:
        self._ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        self._is_sending = True
        await self._send(message)
        self._is_sending, self._started, self._sent_at = False, True, self._loop.time()

    @property
    def seconds(self) -> float:
        """The time until `break_silence` may have to send something."""
        return max(self._sent_at + SILENCE_SECONDS - self._loop.time(), SILENCE_SECONDS / 100)

    async def break_silence(self) -> None:
        """Send `silence`, unless something else was sent a short time ago, or waits for the client to read."""
        if self._is_sending or not self._started:
            self._sent_at = self._loop.time()
        elif not self._ended and self._loop.time() - self._sent_at >= SILENCE_SECONDS:
            with suppress(OSError):  # the client is gone, which is noticed elsewhere
                await self.send({"type": "http.response.body", "body": self._silence, "more_body": True})


async def discard(beginning: asyncio.Task[Answers]) -> None:
    """Stop the answers that `beginning` returns, whether or not they have begun."""
    beginning.cancel()
    with suppress(asyncio.CancelledError, WebUIError):
        answers = await beginning
        await answers.close()


async def _events(beginning: asyncio.Task[Answers], style: StreamStyle, language: str) -> AsyncIterator[bytes]:
    buffered = b""
    try:
        answers = await beginning
        builder, generations = answers.builder, answers.generations
        buffered = b"".join(builder.sse_opening(number) for number in range(answers.count))
        running = answers.count
        while replies := await generations.take():
            for number, reply in replies:
                if isinstance(reply, Text):
                    buffered += builder.sse_text(number, reply)
                elif isinstance(reply, Done):
                    running -= 1
                    buffered += builder.sse_end(number, reply, last=running == 0)
            if buffered and running:  # events that arrived together are sent together
                yield buffered
                buffered = b""
        buffered += builder.sse_closing(generations.finished)
        if buffered:
            yield buffered
    except WebUIError as error:  # the status was sent long ago
        yield buffered + style.error(error, language)
