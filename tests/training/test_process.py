"""The end of a training process is named."""

from __future__ import annotations

import signal

from modules.training.process import _how_it_ended


def test_an_end_is_named_by_its_signal_or_its_exit_status() -> None:
    real_time = signal.SIGRTMIN + 1  # it has no name of its own
    ends = {-signal.SIGKILL: "SIGKILL", -real_time: f"signal {real_time}", 3: "exit status 3"}
    assert {status: _how_it_ended(status) for status in ends} == ends
