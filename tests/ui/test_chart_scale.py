"""Axes of charts: ticks, texts of numbers, positions."""

from __future__ import annotations

import math

import pytest
from pytest import Subtests

from modules.ui.chart_scale import Scale, fitted_scale, linear_ticks, log_ticks, number_text, tick_texts


def test_ticks_are_round_numbers_inside_the_range(subtests: Subtests) -> None:
    cases = {
        (0.0, 100.0): ["0", "20", "40", "60", "80", "100"],
        (1.83, 2.41): ["2.0", "2.2", "2.4"],
        (-0.031, 0.012): ["−0.03", "−0.02", "−0.01", "0.00", "0.01"],
        (0.0, 3e-4): ["0.0000", "0.0001", "0.0002", "0.0003"],
    }
    for (low, high), texts in cases.items():
        with subtests.test(low=low, high=high):
            assert tick_texts(linear_ticks(low, high, 5)) == texts


def test_logarithmic_ticks_are_powers_of_ten_or_finer(subtests: Subtests) -> None:
    cases = {
        (0.9, 12.0): [1, 2, 5, 10],
        (1e-5, 1e3): [1e-5, 1e-3, 1e-1, 1e1, 1e3],
        (2.1, 2.4): linear_ticks(2.1, 2.4, 5),
    }
    for (low, high), expected in cases.items():
        with subtests.test(low=low, high=high):
            assert log_ticks(low, high, 5) == pytest.approx(expected)


def test_values_at_the_ends_of_a_float_have_no_position(subtests: Subtests) -> None:
    for values in ((1e308, -1e308), (1.0, 1e308), (1.0, 5e-324)):
        for log in (False, True):
            with subtests.test(values=values, log=log):
                scale = fitted_scale(values, 0, 100, log)
                assert all(-1 < scale.pixel(tick) < 101 for tick in scale.ticks(5))


def test_every_tick_lies_inside_whatever_the_range() -> None:
    for low, high in ((1e-9, 3e-9), (123456.0, 123457.5), (-5e7, 8e7), (0.3, 0.30001)):
        ticks = linear_ticks(low, high, 5)
        assert 2 <= len(ticks) <= 7
        assert all(low - 1e-9 * abs(low) <= tick <= high + 1e-9 * abs(high) for tick in ticks)
        assert len(set(tick_texts(ticks))) == len(ticks)


def test_numbers_have_four_significant_digits_and_no_padding() -> None:
    values = (0.0, 18.1154, 1234567.0, -0.00001234, 1.5, 200.0, 0.1, math.nan, -math.inf)
    texts = ["0", "18.12", "1.235e6", "−1.234e−5", "1.5", "200", "0.1", "–", "−∞"]
    assert [number_text(value) for value in values] == texts


def test_equal_values_lie_in_the_middle() -> None:
    for value, log in ((3.0, False), (0.0, False), (-2.0, False), (3.0, True)):
        assert fitted_scale([value, value], 0, 100, log).pixel(value) == pytest.approx(50)


def test_values_that_cannot_be_drawn_do_not_stretch_an_axis() -> None:
    assert fitted_scale([1.0, math.nan, math.inf, 5.0], 0, 100) == Scale(1.0, 5.0, 0, 100)
    assert fitted_scale([0.0, -1.0, 1.0, 100.0], 0, 100, log=True) == Scale(1.0, 100.0, 0, 100, log=True)
    assert fitted_scale([], 0, 100).ticks(5)[-1] == pytest.approx(1.0)


def test_a_logarithmic_axis_gives_every_factor_the_same_length() -> None:
    axis = Scale(1.0, 100.0, 0.0, 200.0, log=True)
    assert axis.pixel(10.0) == pytest.approx(100.0)
