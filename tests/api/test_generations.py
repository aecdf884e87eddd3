"""The generations of one request, and how their events reach it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from modules.api.generations import GenerationCall, Generations
from modules.core.errors import NoModelLoaded
from modules.core.events import Done, Event, Failed, Json, Text
from modules.core.prompt import Prompt


class Model:
    """Hands its events to the test, which delivers them as a loaded model does: in the event loop."""

    def __init__(self) -> None:
        self.deliver: list[Callable[[Event], None]] = []
        self.stopped = 0

    def start_in_loop(
        self, prompt: Prompt, params: Mapping[str, Json], deliver: Callable[[Event], None]
    ) -> Callable[[], Done]:
        self.deliver.append(deliver)
        return self._stop

    def _stop(self) -> Done:
        self.stopped += 1
        return Done("cancelled", prompt_tokens=7)


def generations(model: Model, count: int) -> Generations:
    return Generations(model, [GenerationCall(Prompt("text"), {})] * count)  # type: ignore[arg-type]


def test_events_that_arrived_together_are_taken_together() -> None:
    async def scenario() -> None:
        model = Model()
        running = generations(model, 2)
        taking = asyncio.create_task(running.take())
        await asyncio.sleep(0)
        model.deliver[0](Text("a"))
        model.deliver[1](Text("b"))
        assert await taking == [(0, Text("a")), (1, Text("b"))]
        model.deliver[1](Done("stop"))
        model.deliver[0](Text("c"))
        model.deliver[0](Done("length"))
        assert await running.take() == [(1, Done("stop")), (0, Text("c")), (0, Done("length"))]
        assert await running.take() == []

    asyncio.run(scenario())


def test_what_was_written_before_a_failure_is_taken_before_its_error_is_raised() -> None:
    async def scenario() -> None:
        model = Model()
        running = generations(model, 1)
        for event in (Text("a"), Failed(NoModelLoaded()), Text("late")):
            model.deliver[0](event)
        assert await running.take() == [(0, Text("a"))]
        with pytest.raises(NoModelLoaded):
            await running.take()

    asyncio.run(scenario())


def test_the_first_events_are_taken_again_by_the_answer() -> None:
    async def scenario() -> None:
        model = Model()
        running = generations(model, 2)
        waiting = asyncio.create_task(running.wait_for_first_events())
        model.deliver[0](Text("a"))
        model.deliver[0](Text("b"))
        await asyncio.sleep(0)
        assert not waiting.done()
        model.deliver[1](Text("c"))
        await waiting
        assert await running.take() == [(0, Text("a")), (0, Text("b")), (1, Text("c"))]

    asyncio.run(scenario())


def test_ended_generations_keep_what_they_have_written_and_drop_what_comes_late() -> None:
    async def scenario() -> None:
        model = Model()
        running = generations(model, 1)
        model.deliver[0](Text("a", 3))
        assert await running.take() == [(0, Text("a", 3))]
        running.end()
        model.deliver[0](Done("stop"))
        assert await running.take() == [(0, Done("cancelled", prompt_tokens=7, completion_tokens=3))]
        assert await running.take() == []
        assert model.stopped == 1

    asyncio.run(scenario())
