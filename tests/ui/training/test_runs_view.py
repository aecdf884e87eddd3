"""Curves of runs."""

from __future__ import annotations

from modules.core.events import Json
from modules.ui.training.runs_view import curves


def entry(update: int, loss: float, kind: str = "update") -> Json:
    figures = {"learning_rate": 1e-4} if kind == "update" else {}
    return {"event": kind, "update": update, "loss": loss, **figures}


def test_curves_show_losses_evaluations_and_the_learning_rate() -> None:
    log = [entry(1, 3.0), entry(2, 2.5), entry(2, 2.7, "evaluation"), entry(3, 2.0)]
    for language, evaluation in (("en", "Evaluation loss"), ("zh", "评估损失")):
        drawn = curves(log, language)
        assert drawn.count("<figure") == 2 and evaluation in drawn
        assert evaluation not in curves(log[:2], language)
        assert curves(log, language, logarithmic=True) != drawn


def test_a_run_without_updates_or_with_a_loss_that_is_no_number_can_be_drawn() -> None:
    assert "<svg" not in curves([], "en")
    assert "<svg" in curves([entry(1, 3.0), entry(2, float("nan")), entry(3, float("inf"))], "en")
