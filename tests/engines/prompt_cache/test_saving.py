"""Saving prompts while a worker waits: it begins late, ends with the next request, and its faults end nothing."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from modules.engines.prompt_cache import saving
from modules.engines.prompt_cache.saving import next_request, save_at_end
from modules.runtime.worker_process import GRACE_SECONDS


@dataclass
class Engine:
    """An engine that saves in `steps` steps, of which one gets a request into `inbox`, and one fails."""

    steps: int
    inbox: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    request_in: int = -1
    fault_in: int = -1
    fault: Exception = field(default_factory=MemoryError)
    keeps_prompts: bool = True
    done: list[str] = field(default_factory=list)

    def save_prompts(self, seconds: float, at_end: bool) -> Iterator[None]:
        try:
            for step in range(self.steps):
                self.done.append("step")
                if step == self.fault_in:
                    raise self.fault
                if step == self.request_in:
                    self.inbox.put("request")
                yield
            if self.request_in >= self.steps:
                self.inbox.put("request")
        finally:
            self.done.append("closed")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "IDLE_SECONDS", 0.01)


def test_a_request_ends_the_saving() -> None:
    engine = Engine(steps=10, request_in=2)
    assert next_request(engine.inbox, engine) == "request"
    assert engine.done == ["step"] * 3 + ["closed"]


def test_after_everything_is_saved_only_requests_are_waited_for() -> None:
    engine = Engine(steps=2, request_in=2)
    assert next_request(engine.inbox, engine) == "request"
    assert engine.done == ["step", "step", "closed"]


def test_nothing_is_saved_while_requests_come_or_without_a_folder() -> None:
    for engine in (Engine(steps=1), Engine(steps=1, keeps_prompts=False)):
        engine.inbox.put("request")
        assert next_request(engine.inbox, engine) == "request"
        assert engine.done == []


def test_a_fault_ends_the_saving_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for fault in (MemoryError(), OSError("the folder cannot be reached")):
        engine = Engine(steps=3, fault_in=1, fault=fault)
        save_at_end(engine, time.monotonic() + 60)
        assert engine.done == ["step", "step", "closed"] and type(fault).__name__ in capsys.readouterr().err


def test_what_is_not_saved_in_time_is_given_up_before_the_process_ends() -> None:
    engine = Engine(steps=1000)
    save_at_end(engine, time.monotonic())
    assert engine.done == ["step", "closed"]
    assert saving.FINISH_SECONDS + saving.CLOSING_SECONDS < GRACE_SECONDS, "the worker is killed after that"
