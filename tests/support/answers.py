"""Asking a worker: one answer, several at once, or a question; and the parameters that make answers comparable."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from modules.core.events import ENDS, Done, Event, Failed, Result, Text, TokenLogprobs
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
    """Greedy, 20 tokens; unless said otherwise."""
    bias = raw.pop("logit_bias", None)
    return generation_settings.resolve({"temperature": 0, "max_new_tokens": 20} | raw, stops, top_logprobs, bias)  # type: ignore[arg-type]


def answer(worker: WorkerProcess, prompt: str, **wishes: Any) -> Answer:
    return Answer(list(worker.events("generate", prompt=prompt, params=parameters(**wishes))))


def ask(worker: WorkerProcess, operation: str, **args: object) -> Any:
    (event,) = worker.events(operation, **args)
    assert isinstance(event, Result)
    return event.value


def forget(worker: WorkerProcess) -> None:
    """Have the cache hold nothing."""
    ask(worker, "forget")


@dataclass
class Crowd:
    """Calls to one worker that are under way at the same time."""

    worker: WorkerProcess
    heard: dict[int, list[Event]] = field(default_factory=dict)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def ask(self, prompt: str, **wishes: Any) -> int:
        """Begin an answer; the number of its call."""
        events: list[Event] = []

        def deliver(event: Event) -> None:
            with self._news:
                events.append(event)
                self._news.notify_all()

        call = self.worker.start("generate", deliver, prompt=prompt, params=parameters(**wishes))
        self.heard[call] = events
        return call

    def wait(self, call: int, kind: type[Event] | tuple[type[Event], ...] = ENDS, count: int = 1) -> list[Event]:
        """What has been heard of `call` once it has so many events of `kind`. TimeoutError after a minute."""
        with self._news:
            events = self.heard[call]
            if not self._news.wait_for(lambda: sum(isinstance(each, kind) for each in events) >= count, 60):
                raise TimeoutError(f"call {call} said no more than {events[-3:]}")
            return list(events)

    def answer(self, call: int) -> Answer:
        events = self.wait(call)
        if isinstance(events[-1], Failed):
            raise events[-1].error
        return Answer(events)


def together(worker: WorkerProcess, prompts: Sequence[str], **wishes: Any) -> list[Answer]:
    """The answers to all prompts, asked for at once."""
    crowd = Crowd(worker)
    calls = [crowd.ask(prompt, **wishes) for prompt in prompts]
    return [crowd.answer(call) for call in calls]
