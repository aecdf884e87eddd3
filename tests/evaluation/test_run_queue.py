"""Training runs, evaluations and prices take turns: what is queued, what is shown meanwhile, and who moves up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.core.errors import both
from modules.evaluation.errors import EvaluationNotFound, TooManyEvaluations
from modules.evaluation.price_request import PriceRequest
from modules.evaluation.request import EvaluationRequest, Subject
from modules.evaluation.run_queue import MAX_KEPT, MAX_QUEUED, RunQueue
from modules.runtime.turns import Turns
from tests.support.echo_models import use_echo
from tests.support.training_app import PARAMETERS, training_app

SECONDS = 20
MODEL = "good.gguf"


class Work:
    """A run that goes on until `go` is set, and is its own state."""

    def __init__(self, id: str) -> None:
        self.id, self.ended, self.begun, self.go = id, threading.Event(), threading.Event(), threading.Event()
        self._lock = threading.Lock()

    @property
    def state(self) -> str:
        return "ended" if self.ended.is_set() else "running" if self.begun.is_set() else "queued"

    def run(self) -> None:
        with self._lock:
            if self.ended.is_set():
                return
            self.begun.set()
        self.go.wait(SECONDS)
        self.ended.set()

    def stop(self) -> None:
        with self._lock:
            if not self.begun.is_set():
                self.ended.set()
        self.go.set()


def queue(turns: Turns) -> RunQueue[str]:
    return RunQueue("test", turns, EvaluationNotFound, TooManyEvaluations)


def test_runs_of_two_queues_take_turns_and_one_that_is_stopped_is_not_waited_for() -> None:
    turns = Turns()
    evaluations, prices = queue(turns), queue(turns)
    first, second, third = Work("first"), Work("second"), Work("third")
    evaluations._queue(first, both("a"))
    prices._queue(second, both("b"))
    evaluations._queue(third, both("c"))
    assert first.begun.wait(SECONDS)
    assert (evaluations.state, prices.state) == (("running", "queued"), ("queued",))
    assert evaluations.waiting_for("first") is None
    assert prices.waiting_for("second") == {"en": "Waiting for a.", "zh": "正在等待a结束。"}
    prices.stop("second")
    assert prices.find("second") == "ended" and prices.waiting_for("second") is None
    first.go.set()
    assert third.begun.wait(SECONDS) and not second.begun.is_set()
    for started in (evaluations, prices):
        started.close()
    assert third.ended.is_set()


def test_a_queue_that_is_full_takes_no_more_and_runs_that_ended_long_ago_are_forgotten() -> None:
    runs = queue(Turns())
    works = [Work(str(number)) for number in range(MAX_QUEUED + 2)]
    for work in works[:-1]:
        runs._queue(work, both("x"))
    assert works[0].begun.wait(SECONDS)
    with pytest.raises(TooManyEvaluations):
        runs._queue(works[-1], both("x"))
    for work in works[:-1]:
        work.go.set()
    assert runs.wait(str(MAX_QUEUED), SECONDS)
    runs._queue(works[-1], both("x"))
    works[-1].go.set()
    assert runs.wait(works[-1].id, SECONDS) and len(runs.state) == MAX_KEPT + 1
    with pytest.raises(EvaluationNotFound):
        runs.find("0")


def test_a_defect_of_a_run_is_logged_and_the_next_one_has_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Work):
        def run(self) -> None:
            raise RuntimeError("a defect")

    runs, next_one = queue(Turns()), Work("next")
    runs._queue(Broken("broken"), both("x"))
    runs._queue(next_one, both("y"))
    assert next_one.begun.wait(SECONDS)
    assert "a defect" in caplog.text
    runs.stop("next")


def test_training_evaluations_and_prices_wait_for_what_was_started_before(
    make_app: Callable[..., App],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
    request: pytest.FixtureRequest,
) -> None:
    use_echo(monkeypatch, tmp_path / "models", MODEL)
    app = training_app(make_app, tmp_path)
    (tmp_path / "datasets" / "digits.txt").write_text("1 2 3 " * 40)
    at_work = app.turns.queue({"en": "the training run x", "zh": "训练“x”"})
    request.addfinalizer(
        lambda: [app.prices.close(), app.evaluations.close(), at_work.end(), app.training.runs.close()]
    )
    evaluation = app.evaluations.start(EvaluationRequest.parse("digits", (Subject(MODEL),), {}))
    price = app.prices.start(PriceRequest.parse("numa", False, True, MODEL))
    run = app.training.start(PARAMETERS)
    waiting = [
        app.evaluations.waiting_for(evaluation),
        app.prices.waiting_for(price),
        app.training.runs.view(run).waiting,
    ]
    with subtests.test(what="what is shown"):
        assert [words and words["en"] for words in waiting] == [
            "Waiting for the training run x.",
            "Waiting for the training run x and 1 more.",
            "Waiting for the training run x and 2 more.",
        ]
        assert app.training.runs.view(run).state == "queued" and app.training.runs.view(run).position == 3
    with subtests.test(what="all of them can be stopped"):
        app.prices.stop(price)
        app.evaluations.stop(evaluation)
        assert app.training.runs.view(run).position == 1
        at_work.end()
        assert app.training.runs.wait(run, SECONDS).state == "finished"
