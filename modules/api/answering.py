"""Answer requests that generate text: whole, or as a stream of server-sent events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.types import ASGIApp

from modules.api.answers import Answers
from modules.api.errors import json_response, language_of
from modules.api.sse import OPENAI, EventStream, StreamStyle
from modules.api.while_connected import WhileConnected


async def answer(
    request: Request, stream: bool, begin: Callable[[], Awaitable[Answers]], style: StreamStyle = OPENAI
) -> ASGIApp:
    """Return the response to a request: the whole answer, or a stream that begins it.

    Raises what `begin` raises; a stream raises it before its response starts.
    """
    if stream:
        return EventStream(begin, style, language_of(request.headers))
    async with WhileConnected(request.receive):
        answers = await begin()
        try:
            texts = await answers.generations.collect()
            return json_response(answers.builder.whole(texts, answers.generations.finished), headers=answers.headers)
        finally:
            answers.close()
