"""The plan of a load is checked when its turn comes."""

from __future__ import annotations

import dataclasses

import pytest

from modules.core.errors import DamagedModel, LoaderUnavailable, NoModelLoaded, both
from modules.runtime.load_task import LoadTask
from tests.conftest import ECHO
from tests.support import echo_plans


def test_a_plan_is_made_once_and_refused_if_its_model_or_its_loader_cannot_be_used() -> None:
    made: list[str] = []

    def make_plan() -> object:
        made.append("plan")
        return echo_plans.plan()

    task = LoadTask(name="good", make_plan=make_plan)
    assert task.planned() is task.planned() and made == ["plan"]
    missing = dataclasses.replace(ECHO, packages=("no_such_package",))
    with pytest.raises(LoaderUnavailable):
        LoadTask(plan=echo_plans.plan(loader=missing)).planned()
    plan = echo_plans.plan()
    damaged = dataclasses.replace(plan.record, problem=DamagedModel("good", both("cut short")))
    with pytest.raises(DamagedModel):
        LoadTask(plan=dataclasses.replace(plan, record=damaged)).planned()
    with pytest.raises(NoModelLoaded):
        LoadTask().planned()
