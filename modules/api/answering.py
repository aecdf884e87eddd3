"""Answer requests that generate text: whole, or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from modules.api import sse
from modules.api.answers import Answers
from modules.api.errors import json_response, language_of
from modules.api.generations import cancel_on_disconnect, wait_for_disconnect
from modules.api.sse import OPENAI, EventStream, StreamStyle, discard


async def answer(
    request: Request, stream: bool, begin: Callable[[], Awaitable[Answers]], style: StreamStyle = OPENAI
) -> Response:
    """Return the answer to a request, whole or as a stream. Raises what `begin` raises.

    A stream whose answers take long to begin is opened before they do, and reports their error as an event.
    """
    beginning = asyncio.create_task(_run(begin))
    try:
        if stream:
            return await _stream(request, beginning, style)
        async with AsyncExitStack() as stack:
            answers = await cancel_on_disconnect(request, _result(beginning))
            stack.push_async_callback(answers.close)
            texts = await cancel_on_disconnect(request, answers.generations.collect())
            return json_response(answers.builder.whole(texts, answers.generations.finished), headers=answers.headers)
    except BaseException:
        await discard(beginning)
        raise


async def _run(begin: Callable[[], Awaitable[Answers]]) -> Answers:
    return await begin()


async def _result(beginning: asyncio.Task[Answers]) -> Answers:
    return await beginning


async def _stream(request: Request, beginning: asyncio.Task[Answers], style: StreamStyle) -> EventStream:
    """Return the response once the answers have begun, or after a while."""
    leaving = asyncio.create_task(wait_for_disconnect(request))
    try:
        await asyncio.wait((beginning, leaving), timeout=sse.SILENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done() and not beginning.done():
            raise ClientDisconnect
        headers = beginning.result().headers if beginning.done() else {}
        return EventStream(beginning, leaving, style, language_of(request.headers), headers)
    except BaseException:
        leaving.cancel()
        raise
