"""The answers to one request: a generation each, all under way at the same time, heard of through one queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from modules.core.events import Done, Event, Failed, Json, Result, Text
from modules.core.prompt import Prompt
from modules.runtime.loaded_model import LoadedModel, Reply

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    prompt: Prompt
    params: Mapping[str, Json]


class Answers:
    """Generates from the moment it is made until `aclose`. Iterating gives (number of the call, reply).

    `ends` has the Done of each call that is through. What ends a call otherwise is raised to whoever listens.

    Once a token, this runs on processors that the model fills: an event goes from the worker's thread into our list,
    and whoever listens is woken at most once for all that has come meanwhile.
    """

    def __init__(self, model: LoadedModel, calls: Sequence[Call]) -> None:
        self.ends: dict[int, Done] = {}
        self._count = len(calls)
        self._early: list[tuple[int, Reply]] = []
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[int, Event]] = deque()
        self._news = asyncio.Event()
        starts = ((call.prompt, call.params, partial(self._deliver, number)) for number, call in enumerate(calls))
        self._stops = [model.start(*each) for each in starts]

    def _deliver(self, number: int, event: Event) -> None:
        """On the worker's thread."""
        self._inbox.append((number, event))
        if len(self._inbox) == 1:  # otherwise it is about to look anyway
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._news.set)

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

    @property
    def more(self) -> bool:
        """Whether the next one is there already."""
        return bool(self._inbox)

    async def _next(self) -> tuple[int, Reply]:
        while not self._inbox:
            self._news.clear()
            await self._news.wait()
        number, event = self._inbox.popleft()
        if isinstance(event, Failed):
            raise event.error
        assert not isinstance(event, Result), "a generation ends with Done"
        if isinstance(event, Done):
            self.ends[number] = event
        return number, event

    async def collect(self) -> list[list[Text]]:
        """Every call's pieces of text, once all are through."""
        pieces: list[list[Text]] = [[] for _ in range(self._count)]
        async for number, reply in self:
            if isinstance(reply, Text):
                pieces[number].append(reply)
        return pieces

    async def aclose(self) -> None:
        """Stop what is still under way."""
        for stop in self._stops:
            stop()


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
