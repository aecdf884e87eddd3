"""Perplexity, its errors and paired comparisons, on small numbers that were calculated by other means."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from modules.evaluation.statistics import (
    bits_per_byte,
    compare,
    mean_interval,
    percentile,
    perplexity,
    standard_error,
    t_quantile,
)


def test_perplexity_weights_tokens_equally_not_windows() -> None:
    found = perplexity([[math.log(1 / 2)] * 3, [math.log(1 / 8)]])
    assert found.value == pytest.approx(2 ** (6 / 4)) and (found.tokens, found.windows) == (4, 2)


def test_the_token_error_is_that_of_llama_perplexity() -> None:
    losses = [1.0, 2.0, 4.0, 0.5, 3.0]
    mean, squares = statistics.mean(losses), statistics.mean([loss**2 for loss in losses])
    expected = math.exp(mean) * math.sqrt((squares - mean**2) / (len(losses) - 1))
    found = perplexity([[-loss for loss in losses]])
    assert found.token_error == pytest.approx(expected) and found.error == found.token_error


def test_the_error_by_windows_of_one_token_is_that_of_the_mean() -> None:
    values = [1.0, 2.0, 4.0, 0.5]
    expected = statistics.stdev(values) / math.sqrt(len(values))
    assert standard_error([[value] for value in values]) == pytest.approx(expected)
    assert perplexity([[-value] for value in values]).error == pytest.approx(
        math.exp(statistics.mean(values)) * expected
    )


def test_tokens_that_repeat_in_a_window_say_nothing_new() -> None:
    windows = [[-1.0] * 9, [-2.0] * 9, [-4.0] * 9]
    found = perplexity(windows)
    assert found.error == pytest.approx(perplexity([window[:1] for window in windows]).error)
    assert found.error > 2 * found.token_error


def test_a_paired_comparison_is_as_exact_as_the_difference_is_constant() -> None:
    generator = random.Random(1)
    base = [[-generator.uniform(0, 8) for _ in range(50)] for _ in range(6)]
    worse = [[value - 0.01 - 0.001 * (index % 2) for index, value in enumerate(window)] for window in base]
    found = compare(worse, base)
    assert found.mean == pytest.approx(0.0105) and found.low == pytest.approx(0.0105) and not found.includes_zero
    assert perplexity(base).error / perplexity(base).value > 0.05
    assert compare(base, base).includes_zero


def test_the_interval_of_a_mean_is_students() -> None:
    values = [0.1, 0.3, -0.1, 0.2, 0.4]
    found = mean_interval(values)
    margin = 2.7764 * statistics.stdev(values) / math.sqrt(5)
    assert (found.mean, found.low, found.high) == pytest.approx((0.18, 0.18 - margin, 0.18 + margin))
    assert math.isnan(mean_interval([1.0]).low) and mean_interval([1.0]).includes_zero


def test_quantiles_of_t_continue_beyond_the_table() -> None:
    assert t_quantile(1) == 12.7062 and t_quantile(30) == 2.0423
    assert (t_quantile(31), t_quantile(60), t_quantile(1000)) == pytest.approx((2.0395, 2.0003, 1.9623), abs=2e-4)


def test_bits_per_byte_do_not_depend_on_how_the_text_is_cut() -> None:
    assert bits_per_byte([[math.log(1 / 4)], [math.log(1 / 4)]], 4) == 1.0
    assert bits_per_byte([[math.log(1 / 16)]], 4) == 1.0


def test_impossible_tokens_and_nan_are_not_hidden() -> None:
    assert perplexity([[-1.0, -math.inf]]).value == math.inf
    assert math.isnan(perplexity([[-1.0], [math.nan]]).value)
    assert perplexity([[-1000.0]]).value == math.inf and math.isnan(perplexity([[-1.0]]).error)


def test_percentiles_are_interpolated() -> None:
    assert (
        percentile([3.0, 1.0, 2.0], 0.5) == 2.0
        and percentile([0.0, 1.0], 0.99) == 0.99
        and percentile([5.0], 0.99) == 5.0
    )
