"""The number of threads that decode, where the user leaves it open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from modules.core.events import Json
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.thread_choice import choose_threads
from modules.system import cpu_memory, thread_count


class Threads:
    """A model that keeps the numbers of threads it is given."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.decoded = 0

    def use_threads(self, count: int) -> None:
        self.counts.append(count)

    def decode(self) -> None:
        self.decoded += 1


def chosen(threads: Threads, usual: int) -> Json:
    context: dict[str, Json] = {"n_threads": usual}
    choose_threads(cast(Model, threads), context, threads.decode)
    return context["n_threads"]


def test_a_model_too_slow_to_be_measured_keeps_the_usual_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_memory, "_CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(7)))  # of a machine that no file remembers
    monkeypatch.setattr(thread_count, "MEASURED_SECONDS", 0.0)
    threads = Threads()
    assert chosen(threads, usual=7) == 7
    assert threads.counts == [7, 7] and threads.decoded == 1, "it tried one token, and set the number back"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    assert chosen(threads, usual=1) == 1 and threads.decoded == 1, "with one core there is nothing to choose"
