"""A streamed answer: server-sent events, as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from modules.api.errors import error_body
from modules.api.generations import Answers
from modules.api.responses import Shape, sse
from modules.core.errors import WebUIError
from modules.core.events import Done, Text


class EventStream(StreamingResponse):
    """Sends `answers` as they come. However the sending ends, by hanging up or by itself, so do they."""

    def __init__(self, answers: Answers, shape: Shape, count: int, language: str) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(answers, shape, count, language), headers=headers, media_type="text/event-stream")
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answers.aclose()


async def _events(answers: Answers, shape: Shape, count: int, language: str) -> AsyncIterator[bytes]:
    try:
        for number in range(count):
            if opening := shape.sse_opening(number):
                yield opening
        held = b""
        async for number, reply in answers:
            if isinstance(reply, Text):
                held += shape.sse_text(number, reply)
            elif isinstance(reply, Done):
                held += shape.sse_end(number, reply)
            if held and not answers.more:  # what came together goes out together
                yield held
                held = b""
        if usage := shape.sse_usage(answers.ends):
            yield usage
        yield b"data: [DONE]\n\n"
    except WebUIError as error:  # the status is long sent; OpenAI's clients raise what such an event says
        yield sse(error_body(error, language))
