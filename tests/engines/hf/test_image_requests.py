"""Requests with pictures whose forward passes fail or are interrupted, with a model that only fills its cache."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch

from modules.core.errors import Unsupported, WebUIError, both
from modules.core.events import Event, Failed, Progress, Text, Waiting
from modules.engines.hf import kv_cache
from modules.engines.hf.batch import TokenSequence
from modules.engines.hf.evaluator import Interrupted
from modules.engines.hf.generation import Generation
from modules.engines.hf.image_requests import ImageRequests
from modules.engines.hf.kv_cache import GrowableLayer
from modules.engines.hf.model import Model
from modules.engines.hf.vision import PromptImages

pytestmark = pytest.mark.usefixtures("backend")

PICTURE = 0
PROMPT = [1, 2, PICTURE, PICTURE, PICTURE, 3, 4]
ANSWER = 9
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


class Filling:
    """A model that evaluates tokens by putting them into its cache. `planned` are the faults of its next passes.

    A pass that fails leaves half of its tokens in the cache.
    """

    name, prefill_chunk = "filling", 4

    def __init__(self, *planned: Exception | None) -> None:
        self.planned = list(planned)
        self.encoded = 0
        self.shifts: list[object] = []

    def new_cache(self) -> Any:
        return kv_cache.cache_of([GrowableLayer()])

    def _evaluate(self, count: int, cache: Any) -> torch.Tensor:
        fault = self.planned.pop(0) if self.planned else None
        done = count if fault is None else count // 2
        cache.layers[0].update(torch.zeros(1, 1, done, 2), torch.zeros(1, 1, done, 2))
        if fault is not None:
            raise fault
        return torch.zeros(1, 10)

    def forward_images(self, inputs: Sequence[int], cache: Any) -> tuple[torch.Tensor, object]:
        self.encoded += 1
        return self._evaluate(len(inputs), cache), "shift"

    def forward(self, tokens: Sequence[int], cache: Any) -> torch.Tensor:
        return self._evaluate(len(tokens), cache)

    forward_interruptible = forward

    @contextlib.contextmanager
    def positions_shifted(self, shift: object) -> Iterator[None]:
        self.shifts.append(shift)
        yield

    truncate = Model.truncate
    must_prefill_at_once = Model.must_prefill_at_once


class Pictures:
    """The pictures of a prompt, whose input for the model is its tokens. `refusal` is why they cannot be read."""

    def __init__(self, refusal: WebUIError | None = None) -> None:
        self._refusal = refusal

    def inputs(self, tokens: Sequence[int]) -> Sequence[int]:
        if self._refusal is not None:
            raise self._refusal
        return tokens

    def drop_inputs(self) -> None:
        pass

    def cache_keys(self, tokens: Sequence[int]) -> list[int]:
        return list(tokens)

    def end(self, tokens: Sequence[int]) -> int:
        return len(tokens) - list(reversed(tokens)).index(PICTURE)


@dataclass(eq=False)
class Answer:
    """Stands for a generation: its request, without sampling and text."""

    call: int
    prompt: list[int]
    params: dict[str, object] = field(default_factory=dict)
    sequence: TokenSequence = field(default_factory=lambda: TokenSequence([], None))
    queue_position: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def prefill_progress(self) -> Progress:
        return Progress("prompt", self.sequence.evaluated / len(self.prompt))

    def end_prefill(self) -> None:
        pass


def emit(generation: Any, logits: torch.Tensor) -> Generator[tuple[int, Event], None, bool]:
    """Answer with three tokens."""
    generation.completion_tokens += 1
    generation.sequence.tokens.append(ANSWER)
    yield generation.call, Text("word ")
    return bool(generation.completion_tokens == 3)


class Queue:
    """The requests of a model. `freed` counts how often memory of other answers is asked for, `free` how often it is
    had."""

    def __init__(self, model: Filling, free: int = 0) -> None:
        self.freed, self._free = 0, free
        self.requests = ImageRequests(cast(Model, model), emit, self._free_memory)

    def _free_memory(self) -> bool:
        self.freed += 1
        return self.freed <= self._free

    def add(self, prompt: list[int], refusal: WebUIError | None = None, call: int = 1) -> Answer:
        answer = Answer(call, prompt)
        self.requests.add(cast(Generation, answer), cast(PromptImages, Pictures(refusal)))
        return answer

    def run(self) -> list[tuple[int, Event]]:
        events: list[tuple[int, Event]] = []
        while not self.requests.idle:
            assert len(events) < 100
            events += self.requests.step()
        return events


def words_of(events: Sequence[tuple[int, Event]], call: int = 1) -> int:
    return sum(isinstance(event, Text) for number, event in events if number == call)


def cached(answer: Answer) -> int:
    return int(answer.sequence.cache.get_seq_length())


def test_a_picture_without_memory_is_tried_again_as_long_as_other_answers_give_some() -> None:
    model = Filling(OUT_OF_MEMORY, OUT_OF_MEMORY)
    queue = Queue(model, free=2)
    answer = queue.add(PROMPT)
    assert words_of(queue.run()) == 3
    assert (model.encoded, queue.freed, answer.cached_tokens) == (3, 2, 0)
    assert cached(answer) == len(PROMPT) + 2, "nothing of the passes that failed is left"
    queue = Queue(Filling(OUT_OF_MEMORY))
    queue.add(PROMPT)
    ((call, failed),) = queue.run()
    assert call == 1 and isinstance(failed, Failed) and "CUDA out of memory" in str(failed.error)


def test_a_failure_ends_its_own_request_alone() -> None:
    refusal = Unsupported(both("no such pictures"))
    for fault, words in ((None, "no such pictures"), (RuntimeError("shapes do not match"), "RuntimeError: shapes")):
        queue = Queue(Filling(fault))
        queue.add(PROMPT, refusal if fault is None else None)
        queue.add(PROMPT, call=2)
        events = queue.run()
        assert (2, Waiting(1)) in events and words_of(events, 2) == 3
        (failed,) = (event for _, event in events if isinstance(event, Failed))
        assert words in str(failed.error)


def test_the_next_turn_goes_on_after_its_pictures_and_tells_its_progress() -> None:
    model = Filling()
    queue = Queue(model)
    queue.add(PROMPT)
    queue.run()
    turn = [*PROMPT, ANSWER, ANSWER, *range(20, 30)]
    answer = queue.add(turn)
    events = queue.run()
    assert model.encoded == 1 and answer.cached_tokens == len(PROMPT) + 2
    progress = [event.done for _, event in events if isinstance(event, Progress)]
    assert progress == [13 / 19, 17 / 19] and words_of(events) == 3
    assert set(model.shifts) == {"shift"}, "its positions are those after the pictures"


def test_an_interrupted_part_is_evaluated_again_without_the_pictures() -> None:
    model = Filling()
    queue = Queue(model)
    queue.add(PROMPT)
    queue.run()
    model.planned = [None, Interrupted(), Interrupted()]
    answer = queue.add([*PROMPT, ANSWER, ANSWER, *range(20, 30)])
    assert words_of(queue.run()) == 3
    assert model.encoded == 1 and cached(answer) == 21
    model.planned = [Interrupted()]
    other = queue.add([5, *PROMPT])
    assert words_of(queue.run()) == 3
    assert model.encoded == 3 and cached(other) == len(PROMPT) + 3, "the picture itself begins anew"
