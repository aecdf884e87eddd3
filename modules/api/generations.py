"""Run the generations of one request concurrently, and receive their events through one queue."""

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
class GenerationCall:
    prompt: Prompt
    params: Mapping[str, Json]


class Generations:
    """Start generating at once, and stop with `aclose`. Iterating yields (index of the call, reply).

    `finished` has the Done of each call that has ended. If a call fails, its error is raised to the consumer. `owner`
    says who asked for them.

    This runs once per token, on CPUs that the model keeps busy: the worker's thread appends events to a deque and
    wakes the consumer at most once for all events that have arrived meanwhile.
    """

    def __init__(self, model: LoadedModel, calls: Sequence[GenerationCall], owner: object = None) -> None:
        self.finished: dict[int, Done] = {}
        self.owner = owner
        self._count = len(calls)
        self._tokens = [0] * len(calls)
        self._first_events: list[tuple[int, Reply]] = []
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[int, Event]] = deque()
        self._arrived = asyncio.Event()
        starts = ((call.prompt, call.params, partial(self._deliver, number)) for number, call in enumerate(calls))
        self._stops = [model.start(*start) for start in starts]

    def _deliver(self, number: int, event: Event) -> None:
        """Take an event, on the worker's thread."""
        self._inbox.append((number, event))
        if len(self._inbox) == 1:  # otherwise the consumer has been woken already
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                self._loop.call_soon_threadsafe(self._arrived.set)

    async def wait_for_first_events(self) -> None:
        """Wait until each call has sent an event, so that a refusal is known before the answer begins."""
        pending = set(range(self._count))
        while pending:
            number, reply = await self._next()
            self._first_events.append((number, reply))
            pending.discard(number)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Reply]]:
        for event in self._first_events:
            yield event
        while len(self.finished) < self._count:
            yield await self._next()

    @property
    def has_more(self) -> bool:
        """Whether the next event has arrived already."""
        return bool(self._inbox)

    async def _next(self) -> tuple[int, Reply]:
        number, event = await self._take()
        while number in self.finished:  # it has just ended by itself when it was to be ended
            number, event = await self._take()
        if isinstance(event, Failed):
            raise event.error
        assert not isinstance(event, Result), "a generation ends with Done"
        if isinstance(event, Text):
            self._tokens[number] += event.tokens
        if isinstance(event, Done):
            self.finished[number] = event
        return number, event

    async def _take(self) -> tuple[int, Event]:
        while not self._inbox:
            self._arrived.clear()
            await self._arrived.wait()
        return self._inbox.popleft()

    async def collect(self) -> list[list[Text]]:
        """Wait until all calls have ended, and return the pieces of text of each."""
        pieces: list[list[Text]] = [[] for _ in range(self._count)]
        async for number, reply in self:
            if isinstance(reply, Text):
                pieces[number].append(reply)
        return pieces

    def end(self) -> None:
        """End the generations that are still running with what they have written."""
        for number, stop in enumerate(self._stops):
            stop()
            if number not in self.finished:
                self._deliver(number, Done("cancelled", completion_tokens=self._tokens[number]))

    async def aclose(self) -> None:
        """Stop the generations that are still running."""
        for stop in self._stops:
            stop()


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`. Cancels it and raises ClientDisconnect when the client disconnects."""
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for running in (task, watch):
            running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(task, watch, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    """Wait until the client disconnects. The body has been read, so that no other message can arrive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
