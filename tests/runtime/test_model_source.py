"""The model of a run: one that is asleep is woken when the run begins, and not for a run that was stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from modules.core.errors import ModelLoading, NoModelLoaded
from modules.runtime import model_source
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from modules.runtime.model_source import awake_model, page_model, wait_for_lease
from tests.support import echo_plans
from tests.support.echo_plans import texts, wait_until


@pytest.fixture
def models() -> Iterator[ModelManager]:
    owner = ModelManager()
    yield owner
    owner.close()


def put_to_sleep(models: ModelManager, name: str = "good") -> None:
    echo_plans.load(models, name)
    with models.request(keep_alive=0).result(timeout=10):
        pass
    wait_until(lambda: models.status.state == "asleep")


def nothing() -> None:
    pass


def test_a_loaded_model_is_kept_while_the_run_lasts(models: ModelManager) -> None:
    model = echo_plans.load(models)
    assert page_model(models) is model
    lease = wait_for_lease(model, threading.Event(), nothing)
    assert lease is not None and model.is_busy
    lease.release()
    assert not model.is_busy


def test_a_model_that_is_asleep_is_woken_when_the_run_begins(models: ModelManager) -> None:
    put_to_sleep(models)
    source, reports = page_model(models), []
    assert not isinstance(source, LoadedModel) and models.status.state == "asleep"
    lease = wait_for_lease(source, threading.Event(), lambda: reports.append("waking"))
    assert lease is not None and reports == ["waking"]
    with lease as model:
        assert texts(model, "hello") == "hello "


def test_a_run_that_was_stopped_no_longer_waits(models: ModelManager) -> None:
    put_to_sleep(models, "brief")
    stopped = threading.Event()
    assert wait_for_lease(page_model(models), stopped, stopped.set) is None
    wait_until(lambda: not any(one.state == "loading" for one in models.residents()))
    assert all(one.state in ("ready", "asleep") for one in models.residents())


def test_a_request_waits_for_a_model_to_wake(models: ModelManager) -> None:
    put_to_sleep(models)
    assert texts(awake_model(models), "hello") == "hello "
    models.unload()
    with pytest.raises(NoModelLoaded):
        awake_model(models)


def test_a_request_does_not_wait_longer_than_a_page(models: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    put_to_sleep(models, "brief")
    monkeypatch.setattr(model_source, "WAKE_SECONDS", 0.01)
    with pytest.raises(ModelLoading, match="brief"):
        awake_model(models)
    wait_until(lambda: models.status.state == "ready")
    assert not models.current.is_busy, "its lease was given up"
