"""Costs of batches by their size, whatever slows all of them down."""

from __future__ import annotations

import os
import time

import pytest

from modules.engines.llamacpp.batch_costs import ASSUMED_SHARE, FRESH_STEPS, SAMPLES, BatchCosts, batch_clock


def ratio(costs: BatchCosts, size: int) -> float:
    return costs.estimate(size) / costs.estimate(1)


def measured(*batches: tuple[int, float]) -> BatchCosts:
    costs = BatchCosts()
    for size, seconds in batches:
        costs.record(size, seconds)
    return costs


def test_without_measurements_a_further_token_costs_an_assumed_share() -> None:
    assert ratio(BatchCosts(), 3) == pytest.approx(1 + 2 * ASSUMED_SHARE)
    assert ratio(measured((1, 0.02)), 3) == pytest.approx(1 + 2 * ASSUMED_SHARE)
    assert ratio(measured((3, 0.02)), 3) == pytest.approx(1 + 2 * ASSUMED_SHARE)


def test_measured_sizes_replace_the_assumption_and_those_between_are_interpolated() -> None:
    costs = measured(*[(1, 0.02), (5, 0.06)] * 20)
    assert ratio(costs, 5) == pytest.approx(3, rel=0.02)
    assert ratio(costs, 3) == pytest.approx(2, rel=0.02)


def test_beyond_the_largest_measured_size_a_further_token_costs_the_same_share_however_dear_that_was() -> None:
    costs = measured(*[(1, 0.02), (2, 0.038)] * 20)
    assert ratio(costs, 10) == pytest.approx(1.9 + 8 * ASSUMED_SHARE)


def test_what_slows_all_sizes_down_does_not_make_a_size_dearer() -> None:
    costs = measured(*[(1, 0.02), (5, 0.06)] * 20)
    for _ in range(100):
        costs.record(1, 0.06)
    assert ratio(costs, 5) == pytest.approx(3, rel=0.1)


def test_a_single_slow_batch_changes_little() -> None:
    costs = measured(*[(1, 0.02), (5, 0.06)] * SAMPLES)
    costs.record(5, 1.0)
    assert ratio(costs, 5) == pytest.approx(3, rel=0.15)


def test_a_size_that_seemed_dear_long_ago_is_tried_again() -> None:
    costs = measured(*[(1, 0.02)] * 3, *[(3, 0.1)] * 3)
    assert ratio(costs, 3) > 3
    for _ in range(FRESH_STEPS):
        costs.record(1, 0.02)
    assert ratio(costs, 3) == pytest.approx(1 + 2 * ASSUMED_SHARE, rel=0.1)


@pytest.mark.skipif(os.name == "nt", reason="processor time is too coarse there")
def test_time_that_other_programs_take_does_not_count_on_a_cpu() -> None:
    clocks = {offloaded: batch_clock(offloaded) for offloaded in (False, True)}
    before = {offloaded: clock() for offloaded, clock in clocks.items()}
    time.sleep(0.02)
    took = {offloaded: clock() - before[offloaded] for offloaded, clock in clocks.items()}
    assert took[False] < 0.01 < 0.02 <= took[True]


def test_seconds_follow_the_pace_and_a_size_is_known_after_some_batches() -> None:
    costs = measured(*[(1, 0.02)] * 10, *[(1, 0.06)] * 10)
    assert costs.seconds(1) == pytest.approx(0.06, rel=0.1)
    assert costs.is_known(1) and not costs.is_known(2)
