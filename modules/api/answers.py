"""The answers to one request: a generation each, all under way at the same time, heard of through one queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from modules.events import Done, Json, Text
from modules.models import LoadedModel, Reply

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    prompt: str
    params: Mapping[str, Json]


class Answers:
    """Generates from the moment it is made until `aclose`. Iterating gives (number of the call, reply).

    `ends` has the Done of each call that is through. What ends a call otherwise is raised to whoever listens.
    """

    def __init__(self, model: LoadedModel, calls: Sequence[Call]) -> None:
        self.ends: dict[int, Done] = {}
        self._count = len(calls)
        self._early: list[tuple[int, Reply]] = []
        self._inbox: asyncio.Queue[tuple[int, Reply] | BaseException] = asyncio.Queue()
        streams = (model.stream(call.prompt, call.params) for call in calls)
        self._tasks = [asyncio.create_task(self._run(number, replies)) for number, replies in enumerate(streams)]
        for task in self._tasks:
            task.add_done_callback(self._on_end)

    async def _run(self, number: int, replies: AsyncIterator[Reply]) -> None:
        # Cancelled, this stops where `replies` waits for its worker, so its own clean-up runs at once.
        async for reply in replies:
            self._inbox.put_nowait((number, reply))

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._inbox.put_nowait(error)

    async def begin(self) -> None:
        """Wait until every call has been heard of, so that what refuses one is known before anything is answered."""
        silent = set(range(self._count))
        while silent:
            number, reply = await self._next()
            self._early.append((number, reply))
            silent.discard(number)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Reply]]:
        for event in self._early:
            yield event
        while len(self.ends) < self._count:
            yield await self._next()

    async def _next(self) -> tuple[int, Reply]:
        event = await self._inbox.get()
        if isinstance(event, BaseException):
            raise event
        number, reply = event
        if isinstance(reply, Done):
            self.ends[number] = reply
        return event

    async def collect(self) -> list[list[Text]]:
        """Every call's pieces of text, once all are through."""
        pieces: list[list[Text]] = [[] for _ in range(self._count)]
        async for number, reply in self:
            if isinstance(reply, Text):
                pieces[number].append(reply)
        return pieces

    async def aclose(self) -> None:
        """Stop what is still under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of `work`, which is cancelled as soon as the client hangs up: ClientDisconnect."""
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_hang_up(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(task, watch, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    """Wait for it. The body has been read, so nothing else can arrive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
