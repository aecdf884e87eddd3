"""Request answers from a worker, one or several concurrently, with parameters that make answers reproducible."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from modules.core.events import ENDS, Done, Event, Failed, Result, Text, TokenLogprobs
from modules.core.prompt import Prompt
from modules.loaders import generation_settings
from modules.runtime.worker_process import WorkerProcess


@dataclass(frozen=True)
class Answer:
    events: list[Event]

    @property
    def pieces(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Text)]

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        return [token for event in self.events if isinstance(event, Text) for token in event.logprobs]

    @property
    def done(self) -> Done:
        (end,) = (event for event in self.events if isinstance(event, Done))
        return end


def parameters(*, stops: tuple[str, ...] = (), top_logprobs: int | None = None, **raw: object) -> dict[str, Any]:
    """Return generation settings; by default greedy with at most 20 tokens."""
    bias = raw.pop("logit_bias", None)
    return generation_settings.resolve({"temperature": 0, "max_new_tokens": 20} | raw, stops, top_logprobs, bias)  # type: ignore[arg-type]


def answer(worker: WorkerProcess, prompt: str | Prompt, **settings: Any) -> Answer:
    return Answer(list(worker.events("generate", prompt=_sent(prompt), params=parameters(**settings))))


def next_tokens(worker: WorkerProcess, prompt: str | Prompt, top: int = 10, **settings: Any) -> dict[str, list[Any]]:
    """Return the candidates for the token after `prompt`; by default none of the samplers cuts any."""
    params = parameters(**{"temperature": 1, "min_p": 0} | settings)
    candidates: dict[str, list[Any]] = worker.call("next", prompt=_sent(prompt), params=params, top=top)
    return candidates


def assert_next_tokens_of_a_generation(worker: WorkerProcess, text: str) -> None:
    """Fail unless the candidates after `text` before any sampler are those that a generation of one token reports."""
    for prompt in (text, Prompt("", tokens=tuple(ask(worker, "encode", text=text)))):
        forget(worker)
        (first,) = answer(worker, prompt, max_new_tokens=1, top_logprobs=10, top_k=3).logprobs
        forget(worker)
        candidates = next_tokens(worker, prompt, top_k=3)
        assert [token[:2] for token in candidates["plain"]] == [[top.id, top.text] for top in first.top]
        assert [token[2] for token in candidates["plain"]] == pytest.approx(
            [top.logprob for top in first.top], abs=1e-4
        )
        assert [token[0] for token in candidates["sampled"]] == [top.id for top in first.top[:3]]
        weights = [math.exp(top.logprob) for top in first.top[:3]]
        expected = [weight / sum(weights) for weight in weights]
        assert [token[2] for token in candidates["sampled"]] == pytest.approx(expected, abs=1e-4)


def _sent(prompt: str | Prompt) -> object:
    return prompt if isinstance(prompt, str) else prompt.to_json()


def ask(worker: WorkerProcess, operation: str, **args: object) -> Any:
    (event,) = worker.events(operation, **args)
    assert isinstance(event, Result)
    return event.value


def forget(worker: WorkerProcess) -> None:
    """Clear the worker's KV cache."""
    ask(worker, "forget")


@dataclass
class Crowd:
    """Concurrent calls to one worker. `heard` holds their events so far, by call."""

    worker: WorkerProcess
    heard: dict[int, list[Event]] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def ask(self, prompt: str, **settings: Any) -> int:
        """Start an answer and return the number of its call."""
        events: list[Event] = []

        def deliver(event: Event) -> None:
            with self._changed:
                events.append(event)
                self._changed.notify_all()

        call = self.worker.start("generate", deliver, prompt=prompt, params=parameters(**settings))
        self.heard[call] = events
        return call

    def wait(self, call: int, kind: type[Event] | tuple[type[Event], ...] = ENDS, count: int = 1) -> list[Event]:
        """Wait until `call` has `count` events of `kind`; return all its events. Raises TimeoutError after a minute."""
        with self._changed:
            events = self.heard[call]
            if not self._changed.wait_for(lambda: sum(isinstance(event, kind) for event in events) >= count, 60):
                raise TimeoutError(f"the last events of call {call} are {events[-3:]}")
            return list(events)

    def answer(self, call: int) -> Answer:
        events = self.wait(call)
        if isinstance(events[-1], Failed):
            raise events[-1].error
        return Answer(events)


def together(worker: WorkerProcess, prompts: Sequence[str], **settings: Any) -> list[Answer]:
    """Return the answers to all prompts, requested concurrently."""
    crowd = Crowd(worker)
    calls = [crowd.ask(prompt, **settings) for prompt in prompts]
    return [crowd.answer(call) for call in calls]
