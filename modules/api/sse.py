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
    """Send the answers that `beginning` returns; stop them when the response ends or the client disconnects."""

    def __init__(
        self, beginning: asyncio.Task[Answers], style: StreamStyle, language: str, headers: Mapping[str, str]
    ) -> None:
        fixed = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(
            _events(beginning, style, language), headers={**fixed, **headers}, media_type="text/event-stream"
        )
        self._beginning, self._silence = beginning, style.silence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        bridge = _SilenceBridge(send, self._silence)
        bridging = asyncio.create_task(bridge.run())
        try:
            await super().__call__(scope, receive, bridge.send)
        finally:
            bridging.cancel()
            await discard(self._beginning)


class _SilenceBridge:
    """Pass on the messages of a response, and send `silence` after SILENCE_SECONDS without any."""

    def __init__(self, send: Send, silence: bytes) -> None:
        self._send, self._silence = send, silence
        self._started = self._ended = False
        self._sent_at = 0.0
        self._sending = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    async def send(self, message: Message) -> None:
        async with self._sending:
            self._ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await self._send(message)
            self._started, self._sent_at = True, self._loop.time()

    async def run(self) -> None:
        while not self._ended:
            quiet = self._loop.time() - self._sent_at
            if self._started and quiet >= SILENCE_SECONDS:
                with suppress(OSError):  # the client is gone, which the response notices by itself
                    await self.send({"type": "http.response.body", "body": self._silence, "more_body": True})
                quiet = 0.0
            await asyncio.sleep(SILENCE_SECONDS - quiet if self._started else SILENCE_SECONDS)


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
        for number in range(answers.count):
            if opening := builder.sse_opening(number):
                yield opening
        running = answers.count
        while replies := await generations.take():
            for number, reply in replies:
                if isinstance(reply, Text):
                    buffered += builder.sse_text(number, reply)
                elif isinstance(reply, Done):
                    running -= 1
                    buffered += builder.sse_end(number, reply, last=running == 0)
            if buffered:  # events that arrived together are sent together
                yield buffered
                buffered = b""
        if closing := builder.sse_closing(generations.finished):
            yield closing
    except WebUIError as error:  # the status was sent long ago
        yield buffered + style.error(error, language)
