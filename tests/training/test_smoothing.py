"""The smoothed loss: one formula for the line, the curve and the result."""

from __future__ import annotations

import math

import pytest

from modules.training.run import RunFacts, RunView, with_log
from modules.training.smoothing import MovingAverage, smoothed


def update(number: int, loss: float) -> dict[str, object]:
    figures = {"grad_norm": 1.0, "learning_rate": 1e-4, "seconds": 1.0, "memory": 1, "gpu_memory": 0}
    return {"event": "update", "update": number, "loss": loss, **figures}


def test_the_average_starts_at_the_first_value_and_weighs_later_ones_by_a_tenth() -> None:
    assert MovingAverage().value is None
    assert MovingAverage().add(4.0).value == pytest.approx(4.0)
    assert MovingAverage().add(0.0).add(1.0).value == pytest.approx(0.1 / 0.19)


def test_values_that_are_not_finite_are_left_out() -> None:
    assert smoothed([(1, 4.0), (2, math.nan), (3, 4.0)]) == [(1, pytest.approx(4.0)), (3, pytest.approx(4.0))]
    assert smoothed([(1, math.inf)]) == []


def test_the_live_line_shows_the_end_of_the_curve_also_after_a_resumption() -> None:
    """A resumed run logs the updates after its checkpoint again; those of before count no more."""
    view = RunView(RunFacts("a", "m", "/m", "safetensors", "", "", 10, {}, {}, 0.0), "running")
    log = [update(number, loss) for number, loss in enumerate((4.0, 2.0, 3.0, 1.0), 1)]
    curve = [value for _, value in smoothed([(entry["update"], entry["loss"]) for entry in log])]  # type: ignore[misc]
    crashed = with_log(view, log)
    assert crashed.smoothed == curve[3]
    resumed = with_log(crashed, log[:2])
    assert resumed.smoothed == curve[1] and with_log(resumed, log).to_json()["smoothed"] == curve[3]
