"""Statistics of a price, and its form in files."""

from __future__ import annotations

import json
import math

import pytest

from modules.evaluation.price_result import Effect, Measurement, PriceResult, effects_of
from modules.evaluation.statistics import Interval

NAN = math.nan


def pair(a: float, b: float) -> tuple[Measurement, Measurement]:
    return Measurement(memory=100.0, decode_speed=a), Measurement(memory=50.0, decode_speed=b)


def test_the_change_is_the_mean_of_the_log_ratios_with_a_t_interval() -> None:
    factors = (0.8, 0.82, 0.78, 0.81, 0.79)
    memory, speed = effects_of([pair(10.0, 10.0 * factor) for factor in factors])
    logs = [math.log(factor) for factor in factors]
    mean = sum(logs) / 5
    spread = math.sqrt(sum((value - mean) ** 2 for value in logs) / 4)
    assert speed.change.mean == pytest.approx(mean)
    assert speed.change.high - speed.change.mean == pytest.approx(2.7764 * spread / math.sqrt(5))
    assert speed.percent.mean == pytest.approx(100 * (math.exp(mean) - 1))
    assert speed.is_seen
    assert (memory.a, memory.b) == (pytest.approx(100), pytest.approx(50))
    assert memory.percent.mean == pytest.approx(-50)


def test_a_drift_that_pairs_share_does_not_matter() -> None:
    (_, speed) = effects_of([pair(slow, slow * 1.1) for slow in (10.0, 8.0, 5.0)])
    assert speed.percent.low == pytest.approx(10) and speed.percent.high == pytest.approx(10)


def test_no_difference_is_seen_if_the_interval_has_zero_inside() -> None:
    (_, speed) = effects_of([pair(10.0, 10.1), pair(10.0, 9.9), pair(10.0, 10.05)])
    assert not speed.is_seen
    assert not Effect("memory", 1, 1, Interval(0.0, 0.0, 0.0)).is_seen
    assert not Effect("memory", 1, 2, Interval(0.7, NAN, NAN)).is_seen


def test_an_interval_may_have_no_end_in_percent() -> None:
    (_, speed) = effects_of([pair(1.0, 1e-50), pair(1.0, 1e50)])
    assert (speed.percent.low, speed.percent.high) == (-100, math.inf)
    body = json.dumps(result(effects=(speed,)).to_json(), allow_nan=False)
    assert PriceResult.from_json(json.loads(body)).effects == (speed,)


def test_what_one_load_lacks_has_no_effect() -> None:
    assert [effect.metric for effect in effects_of([pair(10.0, 11.0), pair(10.0, 0.0)])] == ["memory"]
    assert effects_of([]) == ()


def result(**changes: object) -> PriceResult:
    effect = Effect("perplexity", 18.0, 18.2, Interval(0.01, -0.01, 0.03))
    fields = {"id": "1", "key": "cache_8bit", "a": "false", "b": "true", "model": "m", "loader": "llama.cpp"}
    return PriceResult(**{**fields, "effects": (effect,), **changes})  # type: ignore[arg-type]


def test_a_result_survives_its_file() -> None:
    full = result(
        kl=Interval(1e-3, 9e-4, 1.1e-3),
        same_top=Interval(0.98, 0.97, 0.99),
        pairs=5,
        tokens=4080,
        foreign_load=0.02,
        seconds=12.5,
        machine={"cpu": "x"},
        packages={"torch": "2"},
        quality_problem={"en": "a", "zh": "b"},
    )
    text = json.dumps(full.to_json(), allow_nan=False)
    assert PriceResult.from_json(json.loads(text)) == full


def test_numbers_that_are_not_finite_are_null() -> None:
    body = result(effects=(Effect("perplexity", NAN, math.inf, Interval(NAN, NAN, NAN)),)).to_json()
    assert body["effects"]["perplexity"] == {"a": None, "b": None, "log_ratio": None, "percent": None, "seen": False}
    restored = PriceResult.from_json(body).effects[0]
    assert math.isnan(restored.a) and math.isnan(restored.change.mean)


def test_other_programs_that_used_more_than_a_tenth_are_warned_about() -> None:
    assert not result(foreign_load=0.1).is_disturbed
    assert result(foreign_load=0.11).is_disturbed
