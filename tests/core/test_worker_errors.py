"""Errors of the worker process: how its end is described."""

from __future__ import annotations

import pytest

from modules.core.worker_errors import WorkerDied


@pytest.mark.parametrize(
    ("code", "reason"), [(-11, "SIGSEGV"), (-9, "SIGKILL"), (-6, "SIGABRT"), (1, "exit status 1"), (-200, "signal 200")]
)
def test_the_death_of_a_worker_is_named_by_its_signal_or_exit_status(code: int, reason: str) -> None:
    idle = {"en": "idle", "zh": "空闲"}
    assert f"({reason})" in WorkerDied(code, idle).say("en")
    assert f"（{reason}）" in WorkerDied(code, idle).say("zh")


def test_the_last_output_of_a_worker_is_quoted_only_if_there_is_any() -> None:
    idle = {"en": "idle", "zh": "空闲"}
    assert WorkerDied(1, idle, "out of memory").say("en").endswith("Its last output: out of memory")
    assert "lack of memory" in WorkerDied(-9, idle).say("en")
    assert "lack of memory" not in WorkerDied(-11, idle).say("en")
    assert "last output" not in WorkerDied(1, idle).say("en")
