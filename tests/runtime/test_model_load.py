"""Loads fail before and after the load itself."""

from __future__ import annotations

import dataclasses
import socket
import sys
from pathlib import Path

import pytest

from modules.core.errors import Unsupported, WebUIError
from modules.core.worker_errors import LoadFailed, WorkerDied
from modules.loaders.load_settings import resolve
from modules.loaders.registry import LOADERS
from modules.runtime.core_binding import CoreBinding
from modules.runtime.load_plan import LoadPlan, LoraAdapter
from modules.runtime.model_load import ModelLoad
from modules.runtime.model_manager import ModelManager
from modules.runtime.totals import GenerationTotals
from tests.conftest import worker_pids
from tests.support import echo_plans
from tests.support.echo_plans import texts


def load_of(plan: LoadPlan, conceals: bool = False) -> ModelLoad:
    return ModelLoad(plan, CoreBinding(), lambda death: None, lambda: None, GenerationTotals(), conceals)


def adapted(name: str) -> LoadPlan:
    return dataclasses.replace(echo_plans.plan(), adapters=(LoraAdapter(name, Path(name), 1.0),))


def test_a_machine_that_does_not_answer_is_told_before_a_worker_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        node = f"127.0.0.1:{free.getsockname()[1]}"
    loader = LOADERS["llama.cpp"]
    options = resolve(loader, model={}, saved={}, flags={"rpc": node, "n_gpu_layers": -1}, form={})
    plan, before = LoadPlan(echo_plans.record("a"), loader, options), worker_pids()
    for conceals in (False, True):
        with pytest.raises(WebUIError) as refused:
            load_of(plan, conceals).run(lambda progress: None)
        assert not isinstance(refused.value, LoadFailed) and worker_pids() == before
        assert not conceals or "127.0.0.1" not in refused.value.say("en")


@pytest.mark.usefixtures("new_processes")
def test_a_process_that_cannot_be_started_is_a_failed_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(LoadFailed, match="No such file"):
        load_of(echo_plans.plan()).run(lambda progress: None)


def test_a_model_goes_on_without_loras_that_are_refused_and_says_why(owner: ModelManager) -> None:
    model = owner.load(adapted("fail"))
    assert isinstance(model.lora_problem, Unsupported) and model.loras == ()
    assert texts(model, "hello") == "hello "


def test_a_model_that_dies_of_its_first_loras_is_not_loaded(owner: ModelManager) -> None:
    before = worker_pids()
    with pytest.raises(WorkerDied, match="SIGKILL"):
        owner.load(adapted("kill"))
    assert owner.status.state == "failed" and worker_pids() <= before
