"""Download jobs queue, show their progress, and are paused, resumed and cancelled within a second.

The tests use the real client and a hub on localhost.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from modules.core.errors import InternalError
from modules.downloads.context import MIB, TransferOptions
from modules.downloads.errors import DiskFull, DiskRefused, DownloadNotFound
from modules.downloads.manager import DownloadManager
from modules.downloads.retry import RetryPolicy
from modules.downloads.view import JobView
from modules.hub.client import HubClient
from modules.hub.errors import FileNotOnHub, RateLimited, RepositoryNotFound, UnsafeName
from tests.support.download_jobs import (
    FILES,
    FIRST_SHARD,
    SPEC,
    TOTAL,
    Program,
    download_to_end,
    read_files,
    view,
    wait_until_ended,
)
from tests.support.downloading import HASTY, SPLIT, download_threads, until
from tests.support.hub_server import HubServer


def test_missing_files_repositories_and_jobs_are_reported(program: Program) -> None:
    downloads = program.start()
    assert isinstance(download_to_end(downloads, replace(SPEC, files=("confg.json",))).error, FileNotOnHub)
    assert isinstance(download_to_end(downloads, replace(SPEC, repo="no/such")).error, RepositoryNotFound)
    assert [job.state for job in downloads.snapshot()] == ["failed", "failed"]
    with pytest.raises(DownloadNotFound):
        downloads.pause("nonsense")
    with pytest.raises(UnsafeName):
        downloads.start(replace(SPEC, target="../elsewhere"))


def test_progress_is_shown_while_a_job_runs(hub: HubServer, program: Program) -> None:
    hub.fault("safetensors", origin="cdn", rate=6_000_000)
    downloads = program.start()
    downloads.start(SPEC)
    views: list[JobView] = []
    while not views or views[-1].state not in ("done", "failed"):
        views.append(view(downloads))
        time.sleep(0.02)
    assert [view.done for view in views] == sorted(view.done for view in views)
    transferring = [view for view in views if view.speed and view.done > 3 * MIB]
    assert {view.total for view in transferring} == {TOTAL} and {view.count for view in transferring} == {4}
    assert {view.file for view in transferring} & {path for path in FILES if "safetensors" in path}
    assert all(3_000_000 < view.speed < 14_000_000 for view in transferring if view.speed)
    assert all(view.seconds_left is not None and view.seconds_left < 3 for view in transferring)
    assert {view.host for view in transferring} == {hub.url.removeprefix("http://")}


def test_one_job_runs_and_the_others_queue(hub: HubServer, program: Program) -> None:
    fault = hub.fault("safetensors", origin="cdn", stall_after=MIB)
    downloads = program.start()
    first_job, second_job = downloads.start(SPEC), downloads.start(replace(SPEC, target="other"))
    until(lambda: view(downloads, first_job).done > MIB / 2)
    assert view(downloads, second_job).state == "queued"
    hub.faults.remove(fault)
    downloads.pause(first_job)
    assert wait_until_ended(downloads, second_job).state == "done" and view(downloads, first_job).state == "paused"
    downloads.resume(first_job)
    assert wait_until_ended(downloads, first_job).state == "done"


def test_a_queued_job_can_be_paused_before_its_turn_comes(hub: HubServer, program: Program) -> None:
    fault = hub.fault("safetensors", origin="cdn", stall_after=MIB)
    downloads = program.start()
    first_job, second_job = downloads.start(SPEC), downloads.start(replace(SPEC, target="other"))
    for _ in range(2):
        downloads.pause(second_job)
        assert view(downloads, second_job).state == "paused"
    hub.faults.remove(fault)
    downloads.pause(first_job)
    assert wait_until_ended(downloads, first_job).state == "paused"
    assert view(program.start(), second_job).state == "paused", "nobody holds it"
    assert view(downloads, second_job).state == "paused" and not (program.models / "other").exists()


def test_a_job_that_the_disk_refuses_is_not_listed(program: Program, subtests: pytest.Subtests) -> None:
    staging = program.models / ".downloads"
    for obstacle in (staging, staging / "jobs.json"):
        with subtests.test(obstacle=obstacle.name):
            obstacle.parent.mkdir(parents=True, exist_ok=True)
            if obstacle == staging:
                obstacle.touch()
            else:
                obstacle.mkdir()
            downloads = program.start()
            with pytest.raises(DiskRefused):
                downloads.start(SPEC)
            assert downloads.snapshot() == ()
            if obstacle == staging:
                obstacle.unlink()
    obstacle.rmdir()
    assert download_to_end(downloads).state == "done", "no lock has been left"


def test_the_configured_number_of_jobs_runs_at_once(hub: HubServer, program: Program) -> None:
    hub.fault("safetensors", origin="cdn", stall_after=MIB)
    downloads = program.start(max_running=2)
    for target in ("one", "two", "three"):
        downloads.start(replace(SPEC, target=target))
    until(lambda: [job.state for job in downloads.snapshot()] == ["downloading", "downloading", "queued"])


def test_starting_the_same_download_twice_creates_one_job(hub: HubServer, program: Program) -> None:
    hub.fault("safetensors", origin="cdn", stall_after=MIB)
    downloads = program.start()
    files = tuple(FILES)
    jobs = {downloads.start(replace(SPEC, files=order)) for order in (files, files[::-1], files)}
    assert len(jobs) == 1 and len(downloads.snapshot()) == 1
    assert downloads.start(replace(SPEC, files=files[:1])) not in jobs


PATIENT = TransferOptions(RetryPolicy(waits=(60,) * 6))
STOPS: dict[str, tuple[dict[str, object], TransferOptions]] = {
    "while it requests the file list": ({"pattern": "/api/", "delay": 30}, HASTY),
    "while bytes arrive": ({"pattern": FIRST_SHARD, "origin": "cdn", "rate": 400_000}, SPLIT),
    "while a connection stalls": ({"pattern": FIRST_SHARD, "origin": "cdn", "stall_after": 100_000}, SPLIT),
    "while waiting between retries": ({"pattern": FIRST_SHARD, "origin": "cdn", "status": 503}, PATIENT),
    "while waiting to retry the file list": ({"pattern": "/api/", "status": 503}, PATIENT),
    "while waiting for a rate limit": (
        {"pattern": FIRST_SHARD, "origin": "cdn", "status": 429, "headers": {"Retry-After": "200"}},
        HASTY,
    ),
}


@pytest.mark.parametrize("name", STOPS)
def test_pause_and_cancel_take_less_than_a_second(hub: HubServer, program: Program, name: str) -> None:
    settings, options = STOPS[name]
    fault = hub.fault(**settings)  # type: ignore[arg-type]
    downloads = program.start(options)
    job = downloads.start(SPEC)
    until(lambda: fault.match_count)
    time.sleep(0.2)
    downloads.pause(job)
    until(lambda: view(downloads).state == "paused", 1)
    until(lambda: download_threads() == [], 1)
    requests_before = fault.match_count
    downloads.resume(job)
    until(lambda: fault.match_count > requests_before)
    time.sleep(0.2)
    downloads.cancel(job)
    until(lambda: view(downloads).state == "cancelled", 1)
    until(lambda: download_threads() == [], 1)
    assert not (program.models / ".downloads" / job).exists()
    downloads.forget(job)
    assert downloads.snapshot() == ()


def test_other_jobs_are_shown_and_start_while_one_is_being_deleted(
    hub: HubServer, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault(FIRST_SHARD, origin="cdn", stall_after=MIB)
    downloads = program.start()
    job = downloads.start(SPEC)
    until(lambda: view(downloads).done > MIB / 2)
    downloads.pause(job)
    wait_until_ended(downloads)
    hub.faults.clear()
    deleting, may_delete, rmtree = threading.Event(), threading.Event(), shutil.rmtree

    def blocked_rmtree(*arguments: Any, **keywords: Any) -> None:
        deleting.set()
        assert may_delete.wait(10)
        rmtree(*arguments, **keywords)

    monkeypatch.setattr(shutil, "rmtree", blocked_rmtree)
    cancelling = threading.Thread(target=downloads.cancel, args=(job,))
    cancelling.start()
    assert deleting.wait(5)
    assert view(downloads, job).state == "cancelled"
    new_job = downloads.start(SPEC)
    downloads.resume(job)
    until(lambda: view(downloads, new_job).done == TOTAL)
    assert new_job != job
    may_delete.set()
    cancelling.join(5)
    assert wait_until_ended(downloads, new_job).state == "done" and not (program.models / ".downloads" / job).exists()
    assert json.loads((program.models / ".downloads" / "jobs.json").read_text()) == []


def test_a_job_that_cannot_be_queued_again_does_not_block_the_queue(
    hub: HubServer, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault(FIRST_SHARD, origin="cdn", stall_after=MIB)
    downloads = program.start()
    first_job = downloads.start(SPEC)
    second_job = downloads.start(replace(SPEC, target="other", files=("config.json",)))  # without the file that stalls
    until(lambda: view(downloads, first_job).done > MIB / 2)

    def raise_disk_full(_: object) -> None:
        raise DiskFull("models", 2, 1)

    monkeypatch.setattr(downloads, "_queue", raise_disk_full)
    with downloads._lock:  # Without the lock the job may stop in between, and `resume` itself raises the error.
        downloads.pause(first_job)
        downloads.resume(first_job)
    result = wait_until_ended(downloads, first_job)
    assert result.state == "paused" and isinstance(result.error, DiskFull)
    assert wait_until_ended(downloads, second_job).state == "done"


def test_a_rate_limit_is_shown_with_its_wait_time(hub: HubServer, program: Program) -> None:
    hub.fault(FIRST_SHARD, origin="cdn", status=429, headers={"Retry-After": "200"}, times=1)
    downloads = program.start()
    downloads.start(SPEC)
    until(lambda: isinstance(view(downloads).waiting, RateLimited))
    assert 195 < view(downloads).wait_seconds <= 200


def test_a_paused_job_resumes_where_it_stopped(hub: HubServer, program: Program) -> None:
    fault = hub.fault(FIRST_SHARD, origin="cdn", stall_after=4 * MIB)
    downloads = program.start()
    job = downloads.start(SPEC)
    until(lambda: view(downloads).done >= 4 * MIB)
    downloads.pause(job)
    assert wait_until_ended(downloads).done >= 4 * MIB
    hub.faults.remove(fault)
    sent_before = hub.sent
    downloads.resume(job)
    assert wait_until_ended(downloads).state == "done" and read_files(program.models / SPEC.target) == FILES
    assert hub.sent - sent_before < TOTAL - 4 * MIB + 5000


def test_a_resume_just_after_a_pause_is_not_lost(hub: HubServer, program: Program) -> None:
    fault = hub.fault(FIRST_SHARD, origin="cdn", stall_after=4 * MIB)
    downloads = program.start()
    job = downloads.start(SPEC)
    until(lambda: view(downloads).done >= 4 * MIB)
    hub.faults.remove(fault)
    downloads.pause(job)
    downloads.resume(job)
    until(lambda: view(downloads).state == "done")
    assert read_files(program.models / SPEC.target) == FILES


@pytest.mark.parametrize(("method", "state"), [("resume", "done"), ("cancel", "cancelled")])
def test_a_request_just_after_a_paused_run_has_stopped_is_not_lost(
    hub: HubServer, program: Program, monkeypatch: pytest.MonkeyPatch, method: str, state: str
) -> None:
    fault = hub.fault(FIRST_SHARD, origin="cdn", stall_after=4 * MIB)
    downloads = program.start()
    execute, requests = downloads._execute, [getattr(downloads, method)]

    def execute_then_request(*run: Any) -> Any:
        outcome = execute(*run)
        while requests:  # at the end of the first run only
            requests.pop()(job)
        return outcome

    monkeypatch.setattr(downloads, "_execute", execute_then_request)
    job = downloads.start(SPEC)
    until(lambda: view(downloads).done >= 4 * MIB)
    hub.faults.remove(fault)
    downloads.pause(job)
    assert wait_until_ended(downloads).state == state
    assert not (program.models / ".downloads" / job).exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unexpected_exception_fails_the_job(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    nothing: dict[str, list[HubClient]] = {}
    downloads = DownloadManager({"model": program.models, "lora": program.loras}, lambda: nothing["mirrors"])
    result = download_to_end(downloads)
    assert result.state == "failed" and isinstance(result.error, InternalError)
    until(lambda: "KeyError" in caplog.text and result.id in caplog.text)


def test_done_listeners_are_called_when_a_model_is_complete(hub: HubServer, program: Program) -> None:
    downloads, calls = program.start(), list[bool]()
    downloads.on_done(lambda: calls.append((program.models / SPEC.target / "config.json").exists()))
    download_to_end(downloads)
    until(lambda: calls)
    assert calls == [True]
    download_to_end(downloads, replace(SPEC, files=("nothing",)))
    assert calls == [True]


def test_a_download_started_while_the_same_one_is_being_cancelled_is_a_new_job(
    hub: HubServer, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = hub.fault(FIRST_SHARD, origin="cdn", stall_after=4 * MIB)
    downloads = program.start()
    execute, jobs = downloads._execute, list[str]()

    def execute_then_start(*run: Any) -> Any:
        outcome = execute(*run)
        if len(jobs) == 1:  # at the end of the first run only
            jobs.append(downloads.start(SPEC))
        return outcome

    monkeypatch.setattr(downloads, "_execute", execute_then_start)
    jobs.append(downloads.start(SPEC))
    until(lambda: view(downloads, jobs[0]).done >= 4 * MIB)
    hub.faults.remove(fault)
    downloads.cancel(jobs[0])
    until(lambda: view(downloads, jobs[0]).state == "cancelled")
    until(lambda: view(downloads, jobs[1]).state == "done", 10)
    assert read_files(program.models / SPEC.target) == FILES
    assert not (program.models / ".downloads" / jobs[0]).exists()
