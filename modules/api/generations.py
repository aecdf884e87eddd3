"""Run the generations of one request concurrently, and receive their events through one queue."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from modules.core.events import Begun, Done, Event, Failed, Json, Result, Text
from modules.core.prompt import Prompt
from modules.runtime.loaded_model import LoadedModel, Reply


@dataclass(frozen=True)
class GenerationCall:
    prompt: Prompt
    params: Mapping[str, Json]


class Generations:
    """Start generating at once, and stop with `close`. `take` returns (index of the call, reply).

    `finished` has the Done of each call that has ended. If a call fails, its error is raised to the consumer. `owner`
    says who asked for them. All methods are for the event loop in which it was made.
    """

    def __init__(self, model: LoadedModel, calls: Sequence[GenerationCall], owner: object = None) -> None:
        self.finished: dict[int, Done] = {}
        self.owner = owner
        self._count = len(calls)
        self._tokens = [0] * len(calls)
        self._first_replies: list[tuple[int, Reply]] = []
        self._arrived: list[tuple[int, Event]] = []
        self._arrival: asyncio.Future[None] | None = None
        starts = ((call.prompt, call.params, partial(self._deliver, number)) for number, call in enumerate(calls))
        self._stops = [model.start_in_loop(*start) for start in starts]

    def _deliver(self, number: int, event: Event) -> None:
        self._arrived.append((number, event))
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def wait_for_first_events(self) -> None:
        """Wait until each call has sent an event, so that a refusal is known before the answer begins."""
        pending = set(range(self._count))
        while pending:
            replies = await self._take_arrived()
            self._first_replies += replies
            pending.difference_update(number for number, _ in replies)

    async def take(self) -> list[tuple[int, Reply]]:
        """Wait for replies, and return all that have arrived; none once all calls have ended."""
        replies, self._first_replies = self._first_replies, []
        while not replies and len(self.finished) < self._count:
            replies = await self._take_arrived()
        return replies

    async def _take_arrived(self) -> list[tuple[int, Reply]]:
        """Return what has arrived up to the failure of a call, which is raised if nothing has arrived before it."""
        if not self._arrived:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        arrived, self._arrived = self._arrived, []
        replies: list[tuple[int, Reply]] = []
        for index, (number, event) in enumerate(arrived):
            if number in self.finished:  # it has just ended by itself when it was to be ended
                continue
            if isinstance(event, Failed):
                if not replies:
                    raise event.error
                self._arrived = arrived[index:]
                break
            assert not isinstance(event, Begun | Result), "a generation ends with Done"
            if isinstance(event, Text):
                self._tokens[number] += event.tokens
            if isinstance(event, Done):
                self.finished[number] = event
            replies.append((number, event))
        return replies

    async def collect(self) -> list[list[Text]]:
        """Wait until all calls have ended, and return the pieces of text of each."""
        pieces: list[list[Text]] = [[] for _ in range(self._count)]
        while replies := await self.take():
            for number, reply in replies:
                if isinstance(reply, Text):
                    pieces[number].append(reply)
        return pieces

    def end(self) -> None:
        """End the generations that are still running with what they have written."""
        for number, stop in enumerate(self._stops):
            end = stop()
            if number not in self.finished:
                self._deliver(number, dataclasses.replace(end, completion_tokens=self._tokens[number]))

    def close(self) -> None:
        """Stop the generations that are still running."""
        for stop in self._stops:
            stop()
