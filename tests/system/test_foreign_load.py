"""The share of the processors that other programs use."""

from __future__ import annotations

import os

import pytest

from modules.system import cpu_memory
from modules.system.foreign_load import ForeignLoad, busy_seconds, process_seconds


def test_the_share_is_what_neither_this_process_nor_its_children_used() -> None:
    times, busy = iter([100.0, 110.0]), iter([50.0, 62.0])
    used = {os.getpid(): iter([3.0, 4.0]), 7: iter([5.0])}
    load = ForeignLoad(lambda: next(times), lambda: next(busy), lambda pid: next(used[pid]))
    assert load.share([7]) == pytest.approx((12 - 1 - 5) / (10 * cpu_memory.logical_cores()))


def test_counters_that_disagree_give_no_negative_share() -> None:
    times, busy = iter([0.0, 1.0]), iter([0.0, 0.1])
    used = iter([0.0, 0.5])
    assert ForeignLoad(lambda: next(times), lambda: next(busy), lambda _pid: next(used)).share([]) == 0.0


def test_the_counters_of_the_system_grow() -> None:
    busy, own = busy_seconds(), process_seconds(os.getpid())
    sum(range(2_000_000))
    assert busy_seconds() >= busy
    assert process_seconds(os.getpid()) >= own > 0
    assert process_seconds(2**22 + 1) == 0.0


def test_the_peak_of_memory_is_at_least_what_is_held() -> None:
    assert cpu_memory.peak_memory(os.getpid()) >= cpu_memory.resident_memory() > 0
    assert cpu_memory.peak_memory(2**22 + 1) == 0
