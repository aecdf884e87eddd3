"""Explanations of load plans by a worker that loads no model."""

from __future__ import annotations

import contextlib

from modules.runtime.explainer import Explainer
from modules.runtime.model_manager import ModelManager
from tests.conftest import worker_pids
from tests.support.echo_plans import plan


def test_a_plan_is_explained_without_loading_the_model(owner: ModelManager) -> None:
    explanation = owner.explain(plan("fail"))
    assert explanation == {"calls": {"echo": {"path": "/models/fail", "n_ctx": 77}}, "notes": []}
    assert owner.status.state == "empty"


def test_one_worker_explains_all_plans_until_it_is_closed() -> None:
    explainer = Explainer()
    before = worker_pids()
    with contextlib.closing(explainer):
        assert explainer.explain(plan("one"))["calls"]["echo"]["path"] == "/models/one"
        (worker,) = worker_pids() - before
        assert explainer.explain(plan("two"))["calls"]["echo"]["path"] == "/models/two"
        assert worker_pids() - before == {worker}
        explainer.close()
        assert worker_pids() == before
        assert explainer.explain(plan("three"))["calls"], "a new worker is started"
    assert worker_pids() == before
