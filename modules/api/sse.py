"""Stream an answer as server-sent events, as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from modules.api.errors import error_body
from modules.api.generations import Generations
from modules.api.responses import ResponseBuilder, sse_event
from modules.core.errors import WebUIError
from modules.core.events import Done, Text


class EventStream(StreamingResponse):
    """Send the events of `generations` as they arrive; stop them when the response ends or the client disconnects."""

    def __init__(self, generations: Generations, builder: ResponseBuilder, count: int, language: str) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **builder.headers}
        super().__init__(
            _events(generations, builder, count, language), headers=headers, media_type="text/event-stream"
        )
        self._generations = generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._generations.aclose()


async def _events(
    generations: Generations, builder: ResponseBuilder, count: int, language: str
) -> AsyncIterator[bytes]:
    try:
        for number in range(count):
            if opening := builder.sse_opening(number):
                yield opening
        buffered, running = b"", count
        async for number, reply in generations:
            if isinstance(reply, Text):
                buffered += builder.sse_text(number, reply)
            elif isinstance(reply, Done):
                running -= 1
                buffered += builder.sse_end(number, reply, last=running == 0)
            if buffered and not generations.has_more:  # events that arrived together are sent together
                yield buffered
                buffered = b""
        if usage := builder.sse_usage(generations.finished):
            yield usage
        yield b"data: [DONE]\n\n"
    except WebUIError as error:  # the status was sent long ago; OpenAI's clients raise an error for such an event
        yield sse_event(error_body(error, language))
