"""Generations and streams of a loaded model, and stopping them."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time

import pytest

from modules.core.embedding_errors import CannotEmbed, CannotGenerate, CannotRank, WrongTask
from modules.core.errors import Unsupported
from modules.core.events import Done, Text, Waiting
from modules.core.prompt import Prompt
from modules.core.worker_errors import Unloaded, WorkerDied
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.support.echo_plans import load, texts


def test_closing_a_generation_lets_the_next_one_start(owner: ModelManager) -> None:
    model = load(owner)
    answer = model.generate(Prompt("slow count 1000"), {})
    next(answer)
    answer.close()  # type: ignore[attr-defined]
    assert texts(model, "next") == "next "


async def streamed(model: LoadedModel, prompt: str) -> list[object]:
    return [event async for event in model.stream(Prompt(prompt), {})]


def test_a_stream_yields_the_events_of_a_generation(owner: ModelManager) -> None:
    model = load(owner)
    assert asyncio.run(streamed(model, "hello world")) == [
        Text("hello "),
        Text("world "),
        Done("stop", prompt_tokens=2, completion_tokens=2),
    ]


def test_a_stream_raises_the_error_of_the_generation(owner: ModelManager) -> None:
    model = load(owner)
    with pytest.raises(Unsupported, match="will not"):
        asyncio.run(streamed(model, "hello fail"))
    with pytest.raises(WorkerDied, match="SIGKILL"):
        asyncio.run(streamed(model, "hello kill"))
    with pytest.raises(WorkerDied):
        asyncio.run(streamed(model, "hello"))


def test_many_streams_share_one_thread(owner: ModelManager) -> None:
    model = load(owner)

    async def stream_all() -> list[list[object]]:
        return await asyncio.gather(*(streamed(model, f"number {number}") for number in range(20)))

    threads = threading.active_count()
    answers = asyncio.run(stream_all())
    assert threading.active_count() <= threads
    answer_texts = ["".join(event.text for event in answer if isinstance(event, Text)) for answer in answers]
    assert answer_texts == [f"number {number} " for number in range(20)]
    assert any(isinstance(answer[0], Waiting) for answer in answers)


@pytest.mark.parametrize("ending", ["cancelled", "closed"])
def test_cancelling_or_closing_a_stream_stops_its_generation(owner: ModelManager, ending: str) -> None:
    model = load(owner)

    async def interrupt() -> None:
        if ending == "cancelled":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(streamed(model, "slow count 1000"), 0.3)
        else:
            stream = model.stream(Prompt("slow count 1000"), {})
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(interrupt())
    began = time.monotonic()
    assert texts(model, "next") == "next "
    assert time.monotonic() - began < 1


def test_a_stream_whose_event_loop_is_closed_does_not_block_the_model(owner: ModelManager) -> None:
    model = load(owner)
    loop = asyncio.new_event_loop()
    stream = model.stream(Prompt("slow count 8"), {})
    loop.run_until_complete(anext(stream))
    loop.close()
    assert texts(model, "next") == "next "


def test_a_model_in_use_cannot_be_retired(owner: ModelManager) -> None:
    model = load(owner)
    first, second = model.lease(), model.lease()
    first.release()
    first.release()
    assert not model.retire() and model.is_busy
    second.release()
    answer = model.generate(Prompt("slow count 1000"), {})
    next(answer)
    assert not model.retire(), "it is answering, although nobody has said so"
    answer.close()  # type: ignore[attr-defined]
    assert model.retire() and not model.is_busy
    with pytest.raises(Unloaded):
        model.lease()


def test_a_question_in_an_event_loop_has_an_answer_or_an_error(owner: ModelManager) -> None:
    model = load(owner)
    assert asyncio.run(model.ask_async("repeat", text="ab", times=3)) == "ababab"
    with pytest.raises(Unsupported, match="does not support embed"):
        asyncio.run(model.ask_async("embed", inputs=["a"]))
    owner.unload()
    with pytest.raises(Unloaded):
        asyncio.run(model.ask_async("repeat", text="ab", times=3))


def test_a_question_that_is_cancelled_ends_at_once(owner: ModelManager) -> None:
    model = load(owner)

    async def leave() -> float:
        asked = asyncio.create_task(model.ask_async("count", text="held"))  # answered once it is released
        await asyncio.sleep(0.05)
        began = time.monotonic()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        return time.monotonic() - began

    assert asyncio.run(leave()) < 1


@pytest.mark.parametrize(("task", "error"), [("embed", CannotEmbed), ("rank", CannotRank), ("", None)])
def test_a_model_is_refused_for_a_task_that_is_not_its_own(
    owner: ModelManager, task: str, error: type[WrongTask] | None
) -> None:
    model = load(owner)
    if error is None:
        model.require(task)
        return
    with pytest.raises(error, match="generates text"):
        model.require(task)
    model.info = dataclasses.replace(model.info, task=task)
    for ask in (
        lambda: model.generate(Prompt("a"), {}),
        lambda: model.start(Prompt("a"), {}, lambda event: None),
        lambda: model.ask("next", prompt="a", params={}),
    ):
        with pytest.raises(CannotGenerate):
            ask()
