"""Loads, unloads and concurrent requests: which model becomes current, and the status and errors that result."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from modules.catalog.record import ModelRecord
from modules.core.errors import (
    DamagedModel,
    LoaderUnavailable,
    ModelLoading,
    NoModelLoaded,
    OptionError,
    Unsupported,
    both,
)
from modules.core.events import Note
from modules.core.prompt import Prompt
from modules.core.worker_errors import LoadCancelled, LoadFailed, Unloaded, WorkerDied, WorkerStuck
from modules.loaders.load_settings import resolve
from modules.loaders.registry import LOADERS
from modules.runtime.load_plan import LoadPlan, LoraAdapter
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.conftest import ECHO, worker_pids
from tests.support.echo_plans import SETTINGS, load, plan, record, texts, wait_until


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def wait_for_progress(owner: ModelManager, name: str) -> None:
    wait_until(lambda: owner.status.name == name and owner.status.progress > 0)


# -- load and unload ---------------------------------------------------------------------------------------------------


def test_no_model_is_loaded_at_first(owner: ModelManager) -> None:
    assert owner.status.state == "empty"
    with pytest.raises(NoModelLoaded):
        _ = owner.current


def test_the_terminal_says_in_its_language_how_long_a_load_took(
    owner: ModelManager, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    with caplog.at_level(logging.INFO, logger="modules.runtime.model_load"):
        model = load(owner)
    assert caplog.messages[0].startswith(f"已用 {model.loader.name} 加载 {model.record.name}，用时 ")


def test_a_loaded_model_is_current_and_generates(owner: ModelManager) -> None:
    model = load(owner)
    assert owner.current is model
    assert texts(model, "hello world") == "hello world "
    assert model.ask("count", text="one two") == 2
    assert model.ask("options")["n_ctx"] == 77
    assert model.info.notes == (Note("n_ctx", both("not used")),)


def test_the_status_describes_the_loaded_model(owner: ModelManager) -> None:
    load(owner)
    status = owner.status
    assert (status.state, status.name, status.loader, status.context_length) == ("ready", "good", "echo", 64)
    assert 0 < status.seconds < 10
    assert status.error is None


def test_version_and_progress_of_the_status_grow_during_a_load(
    owner: ModelManager, threads: ThreadPoolExecutor
) -> None:
    threads.submit(load, owner, "slow")
    wait_for_progress(owner, "slow")
    early = owner.status
    wait_until(lambda: owner.status.progress > early.progress)
    assert owner.status.state == "loading"
    assert owner.status.version > early.version
    with pytest.raises(ModelLoading, match="slow"):
        _ = owner.current
    owner.unload()


def test_a_load_replaces_the_current_model(owner: ModelManager) -> None:
    first = load(owner, "first")
    second = load(owner, "second")
    assert owner.current is second
    assert texts(second, "hello") == "hello "
    with pytest.raises(Unloaded):
        texts(first, "hello")


def test_unloading_frees_the_memory_and_ends_the_process(owner: ModelManager) -> None:
    before = worker_pids()
    model = load(owner, "big")
    memory = model.memory
    assert memory > 64 << 20
    assert abs(owner.unload() - memory) < 1 << 20
    assert worker_pids() == before
    assert owner.status.state == "empty"
    assert owner.status.freed > 64 << 20
    with pytest.raises(NoModelLoaded):
        _ = owner.current


def test_unloading_nothing_frees_nothing(owner: ModelManager) -> None:
    assert owner.unload() == 0
    assert owner.unload() == 0


def test_unloading_ends_a_generation_with_an_error(owner: ModelManager) -> None:
    answer = load(owner).generate(Prompt("slow count 1000"), {})
    next(answer)
    owner.unload()
    with pytest.raises(Unloaded):
        list(answer)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("fail", Unsupported, "the echo engine will not"),
        ("boom", LoadFailed, "the echo engine broke"),
        ("abort", WorkerDied, "SIGABRT"),
        ("segv", WorkerDied, "SIGSEGV"),
        ("kill", WorkerDied, "SIGKILL"),
    ],
)
def test_a_failed_load_reports_its_cause_and_leaves_no_process(
    owner: ModelManager, name: str, error: type[Exception], message: str
) -> None:
    before = worker_pids()
    with pytest.raises(error, match=message):
        load(owner, name)
    status = owner.status
    assert (status.state, status.name) == ("failed", name)
    assert message in str(status.error)
    wait_until(lambda: worker_pids() == before)
    with pytest.raises((NoModelLoaded, WorkerDied)):
        _ = owner.current
    assert texts(load(owner), "hello") == "hello ", "the next load works"


def test_a_load_refused_at_once_keeps_the_current_model(owner: ModelManager) -> None:
    model = load(owner)
    status = owner.status
    damaged = dataclasses.replace(record("damaged"), problem=DamagedModel("damaged", both("cut short")))
    with pytest.raises(DamagedModel):
        owner.load(LoadPlan(damaged, ECHO, SETTINGS))
    with pytest.raises(LoaderUnavailable):
        load(owner, loader=dataclasses.replace(ECHO, packages=("no_such_package",)))
    assert owner.current is model
    assert owner.status == status
    assert texts(model, "still here") == "still here "


def test_options_that_the_engine_would_refuse_are_refused_before_the_current_model_is_unloaded(
    owner: ModelManager, tmp_path: Path
) -> None:
    model, vllm = load(owner), LOADERS["vLLM"]
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    options = {"vllm_program": sys.executable, "engine_args": "--api-key=secret"}
    settings = resolve(vllm, model={}, saved={}, flags=options, form={})
    with pytest.raises(OptionError, match="engine_args"):
        owner.load(LoadPlan(ModelRecord("other", tmp_path, "safetensors", size=0), vllm, settings))
    assert owner.status.state == "failed" and texts(model, "still here") == "still here "


def test_a_load_refused_at_once_does_not_cancel_a_running_load(
    owner: ModelManager, threads: ThreadPoolExecutor
) -> None:
    loading = threads.submit(load, owner, "slow")
    wait_for_progress(owner, "slow")
    with pytest.raises(LoaderUnavailable):
        load(owner, loader=dataclasses.replace(ECHO, packages=("no_such_package",)))
    assert not loading.done()
    assert owner.status.state == "loading"
    owner.unload()


def test_a_model_killed_while_idle_is_shown_as_failed_and_raises_when_used(owner: ModelManager) -> None:
    model = load(owner)
    os.kill(next(iter(worker_pids())), signal.SIGKILL)
    wait_until(lambda: owner.status.state == "failed")
    assert "idle (SIGKILL)" in str(owner.status.error)
    assert owner.status.name == "good"
    with pytest.raises(WorkerDied):
        _ = owner.current
    with pytest.raises(WorkerDied):
        texts(model, "hello")
    assert texts(load(owner), "hello") == "hello ", "the next load works"


@pytest.mark.parametrize("word", ["abort", "segv", "kill"])
def test_a_model_that_dies_while_generating_raises_worker_died(owner: ModelManager, word: str) -> None:
    with pytest.raises(WorkerDied, match="generating"):
        texts(load(owner), f"hello {word}")
    wait_until(lambda: owner.status.state == "failed")
    assert texts(load(owner), "hello") == "hello ", "the next load works"


def test_a_stuck_model_is_loaded_again_with_its_loras_and_the_error_quotes_the_grammar(owner: ModelManager) -> None:
    model = load(owner)
    owner.apply_loras(model, [LoraAdapter("first", Path("first"), 0.5)])
    with pytest.raises(WorkerStuck, match="grammar: 'root ::= ") as stuck:
        list(model.generate(Prompt("hello stuck"), {"stop": [], "grammar_string": "root ::= " + "a" * 1000}))
    assert len(stuck.value.grammar) < 100
    wait_until(lambda: owner.status.state == "ready" and owner.current is not model)
    assert texts(owner.current, "adapters") == "first "
    assert [lora.name for lora in owner.current.loras] == ["first"]


def test_unloading_a_dead_model_clears_the_error(owner: ModelManager) -> None:
    with pytest.raises(WorkerDied):
        texts(load(owner), "kill")
    wait_until(lambda: owner.status.state == "failed")
    assert owner.unload() == 0
    assert owner.status.state == "empty"
    with pytest.raises(NoModelLoaded):
        _ = owner.current


def test_a_model_that_dies_as_it_becomes_ready_is_shown_as_failed(owner: ModelManager) -> None:
    for milliseconds in range(0, 20, 2):
        with contextlib.suppress(WorkerDied):  # `load` raises the error if the worker dies early enough
            load(owner, f"late {milliseconds}")
        wait_until(lambda: owner.status.state == "failed")
        with pytest.raises(WorkerDied):
            _ = owner.current


# -- concurrent requests -----------------------------------------------------------------------------------------------


def cancelled(future: Future[LoadedModel]) -> bool:
    return isinstance(future.exception(timeout=10), LoadCancelled)


def test_a_second_load_cancels_a_running_one(owner: ModelManager, threads: ThreadPoolExecutor) -> None:
    first = threads.submit(load, owner, "slow")
    wait_for_progress(owner, "slow")
    began = time.monotonic()
    second = load(owner, "second")
    assert time.monotonic() - began < 3, "the second load does not wait for the first"
    assert cancelled(first)
    assert owner.current is second
    assert (owner.status.state, owner.status.name) == ("ready", "second")


def test_the_last_of_many_requests_wins(owner: ModelManager, threads: ThreadPoolExecutor) -> None:
    futures = []
    for number in range(5):
        futures.append(threads.submit(load, owner, f"slow {number}"))
        time.sleep(0.05)
    last = load(owner, "last")
    assert all(cancelled(future) for future in futures)
    assert owner.current is last
    assert len(worker_pids()) == 1


def test_two_requests_for_the_same_load_share_it(owner: ModelManager, threads: ThreadPoolExecutor) -> None:
    first = threads.submit(load, owner, "brief")
    wait_for_progress(owner, "brief")
    worker = worker_pids()
    second = threads.submit(load, owner, "brief")
    assert first.result(timeout=10) is second.result(timeout=10) is owner.current
    assert worker_pids() == worker
    assert load(owner, "brief") is not first.result(), "loading a model that is ready is a new load"
    assert worker_pids().isdisjoint(worker)


def test_requests_that_share_a_load_all_fail_if_it_is_cancelled_or_fails(
    owner: ModelManager, threads: ThreadPoolExecutor
) -> None:
    futures = [threads.submit(load, owner, "slow") for _ in range(2)]
    wait_for_progress(owner, "slow")
    owner.unload()
    assert all(cancelled(future) for future in futures)
    futures = [threads.submit(load, owner, "slow") for _ in range(2)]
    wait_for_progress(owner, "slow")
    os.kill(worker_pids().pop(), signal.SIGKILL)
    assert all(isinstance(future.exception(timeout=10), WorkerDied) for future in futures)


def test_a_load_with_an_older_number_than_the_last_request_is_cancelled(owner: ModelManager) -> None:
    number = owner.next_number()
    owner.unload()
    assert cancelled(owner.begin(plan("late"), number))
    assert owner.status.state == "empty" and not worker_pids()
    number, model = owner.next_number(), load(owner)
    assert cancelled(owner.begin(plan("late"), number))
    assert owner.current is model


def test_a_load_with_other_options_is_not_shared(owner: ModelManager, threads: ThreadPoolExecutor) -> None:
    first = threads.submit(load, owner, "brief")
    wait_for_progress(owner, "brief")
    settings = resolve(ECHO, model={}, saved={}, flags={}, form={"n_ctx": 78})
    model = owner.load(LoadPlan(record("brief"), ECHO, settings))
    assert cancelled(first)
    assert owner.current is model and model.ask("options")["n_ctx"] == 78


def test_unloading_cancels_a_running_load(owner: ModelManager, threads: ThreadPoolExecutor) -> None:
    loading = threads.submit(load, owner, "slow")
    wait_for_progress(owner, "slow")
    owner.unload()
    assert cancelled(loading)
    assert owner.status.state == "empty"
    assert not worker_pids()


def test_of_two_simultaneous_loads_one_is_cancelled(owner: ModelManager, threads: ThreadPoolExecutor) -> None:
    start = threading.Barrier(2)

    def load_at_once(name: str) -> LoadedModel:
        start.wait()
        return load(owner, name)

    for _ in range(5):
        futures = {name: threads.submit(load_at_once, name) for name in ("left", "right")}
        outcomes = {name: future.exception(timeout=10) for name, future in futures.items()}
        winners = [name for name, error in outcomes.items() if error is None]
        assert owner.current.record.name == owner.status.name
        assert owner.status.name in winners
        assert all(error is None or isinstance(error, LoadCancelled) for error in outcomes.values())
        assert len(worker_pids()) == 1


def test_a_request_while_the_old_model_is_slow_to_close_cancels_the_load_before_it(
    owner: ModelManager, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.runtime.worker_process.GRACE_SECONDS", 0.6)
    load(owner)
    os.kill(next(iter(worker_pids())), signal.SIGSTOP)  # closing it now takes the full grace period
    began = time.monotonic()
    first = threads.submit(load, owner, "slow")
    time.sleep(0.3)
    with pytest.raises(ModelLoading, match="slow"):
        _ = owner.current
    second = load(owner, "second")
    assert time.monotonic() - began < 7, "the first load was not cancelled"
    assert cancelled(first)
    assert owner.current is second
