"""Download jobs queue, stop within a second, survive restarts and kills, and install their files once all are complete.

The tests use the real client and a hub on localhost.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import InternalError
from modules.core.paths import ROOT
from modules.downloads.context import MIB, DownloadContext, TransferOptions
from modules.downloads.errors import (
    ChecksumMismatch,
    DigestDiffers,
    DigestUnlisted,
    DiskFull,
    DiskRefused,
    DownloadNotFound,
    PickleRefused,
)
from modules.downloads.install_files import LOCK, InstallTarget
from modules.downloads.manager import DownloadManager
from modules.downloads.record import DownloadSpec, JobRecord
from modules.downloads.request import Selection, pin_checksum
from modules.downloads.retry import RetryPolicy
from modules.downloads.run import DownloadRun
from modules.downloads.view import JobView
from modules.hub.access_token import AccessToken
from modules.hub.client import HubClient
from modules.hub.endpoint_url import parse_endpoint
from modules.hub.errors import (
    BadEndpoint,
    FileNotOnHub,
    LinkInTheWay,
    MirrorUnreachable,
    NothingToDownload,
    RateLimited,
    RepositoryNotFound,
    Stopped,
    UnsafeName,
)
from modules.system import cpu_memory, file_lock
from tests.support.downloading import HASTY, REPO, SPLIT, download_threads, list_repository, noise, until
from tests.support.hub_server import HubServer

FILES = {
    "config.json": b'{"a": 1}',
    "model-00001-of-00002.safetensors": noise(6 * MIB, 1),
    "model-00002-of-00002.safetensors": noise(3 * MIB, 2),
    "onnx/readme.md": noise(2000, 3),
}
TOTAL = sum(map(len, FILES.values()))
FIRST_SHARD, SECOND_SHARD = "model-00001", "model-00002"
SPEC = DownloadSpec(REPO, "main", "somebody_something")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(REPO, FILES)
        yield server


class Program:
    """Creates managers of the same folders, as repeated starts of the program do."""

    def __init__(self, folder: Path, endpoints: list[str]) -> None:
        self.models, self.loras = folder / "models", folder / "loras"
        self.endpoints = endpoints
        self.running: list[DownloadManager] = []

    def start(
        self, options: TransferOptions = HASTY, reserve: int = 0, max_running: int = 1, token: AccessToken | None = None
    ) -> DownloadManager:
        manager = DownloadManager(
            {"model": self.models, "lora": self.loras},
            lambda: [HubClient(endpoint, token) for endpoint in self.endpoints],
            options,
            max_running,
            reserve,
        )
        self.running.append(manager)
        return manager


@pytest.fixture
def program(hub: HubServer, tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path, [hub.url])
    yield program
    for manager in program.running:
        manager.close()
    until(lambda: download_threads() == [], 1)


def view(downloads: DownloadManager, job: str = "") -> JobView:
    """Return the view of a job; without an id, of the only job."""
    views = [view for view in downloads.snapshot() if view.id == job or not job]
    assert len(views) == 1
    return views[0]


def wait_until_ended(downloads: DownloadManager, job: str = "", seconds: float = 20) -> JobView:
    until(lambda: view(downloads, job).state in ("done", "failed", "paused", "cancelled"), seconds)
    return view(downloads, job)


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "huggingface-metadata.txt"
    }


def test_a_repository_is_downloaded_unchanged_and_leaves_no_temporary_files(hub: HubServer, program: Program) -> None:
    downloads = program.start()
    job = downloads.start(SPEC)
    result = wait_until_ended(downloads, job)
    assert (result.state, result.error, result.done, result.total, result.count) == ("done", None, TOTAL, TOTAL, 4)
    requests = hub.requests(origin="hub")
    assert len({request.connection for request in requests}) < len(requests), "connections are reused"
    assert result.folder == program.models / SPEC.target and read_files(result.folder) == FILES
    assert not (program.models / ".downloads" / job).exists()
    assert json.loads((program.models / ".downloads" / "jobs.json").read_text()) == []
    check = subprocess.run(
        ["sha256sum", "-c", "-"],
        input="".join(
            f"{entry.sha256}  {path}\n"
            for path, entry in hub.repos[REPO].commits[result.commit].items()
            if entry.sha256
        ),
        cwd=result.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0 and check.stdout.count("OK") == 2


def test_huggingface_hub_verifies_the_downloaded_files(hub: HubServer, program: Program) -> None:
    result = download_to_end(program.start())
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    check = subprocess.run(
        [
            *(ROOT / ".venv" / "bin" / "hf", "cache", "verify", REPO, "--local-dir", result.folder),
            "--fail-on-missing-files",
        ],
        env={**os.environ, **environment, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(program.models / "hf")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stdout + check.stderr


def download_to_end(downloads: DownloadManager, spec: DownloadSpec = SPEC) -> JobView:
    return wait_until_ended(downloads, downloads.start(spec))


def test_the_folder_appears_only_when_it_is_complete(hub: HubServer, program: Program) -> None:
    hub.fault(SECOND_SHARD, origin="cdn", stall_after=MIB)
    downloads = program.start()
    downloads.start(SPEC)
    until(lambda: view(downloads).file.startswith(SECOND_SHARD) and view(downloads).done > 7 * MIB)
    assert [path.name for path in program.models.iterdir()] == [".downloads"]


def test_a_download_writes_the_metadata_file_of_the_original(hub: HubServer, program: Program) -> None:
    result = download_to_end(program.start())
    entries = hub.repos[REPO].commits[result.commit]
    lines = (result.folder / "huggingface-metadata.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == [f"url: https://huggingface.co/{REPO}", "branch: main"]
    assert lines[2].startswith("download date: 20")
    assert lines[3:5] == [f"commit: {result.commit}", f"endpoint: {hub.url.removeprefix('http://')}"]
    assert lines[5:] == [
        "sha256sum:",
        *(f"    {entry.sha256} {path}" for path, entry in entries.items() if entry.sha256),
    ]


def test_selected_files_can_go_to_the_lora_folder(program: Program) -> None:
    spec = DownloadSpec(REPO, "main", "adapter", ("config.json", "onnx/readme.md"), "lora")
    result = download_to_end(program.start(), spec)
    assert result.folder == program.loras / "adapter" and result.count == 2
    assert read_files(result.folder) == {path: FILES[path] for path in spec.files or ()}


def test_a_single_file_goes_directly_to_the_models_folder(hub: HubServer, program: Program) -> None:
    hub.add(REPO, {"Q4/model.gguf": FILES["onnx/readme.md"]})
    download_to_end(program.start(), DownloadSpec(REPO, "main", "", ("Q4/model.gguf",), flat=True))
    assert sorted(path.name for path in program.models.iterdir()) == [".downloads", "model.gguf"]
    assert (program.models / "model.gguf").read_bytes() == FILES["onnx/readme.md"]


def test_the_parts_of_a_split_file_go_to_one_folder(hub: HubServer, program: Program) -> None:
    hub.add(REPO, {"Q4/m-00001-of-00002.gguf": b"one", "Q4/m-00002-of-00002.gguf": b"two"})
    result = download_to_end(program.start(), DownloadSpec(REPO, "main", "m", flat=True))
    assert read_files(result.folder) == {"m-00001-of-00002.gguf": b"one", "m-00002-of-00002.gguf": b"two"}


def test_two_files_with_the_same_target_are_refused(hub: HubServer, program: Program) -> None:
    hub.add(REPO, {"Q4/m.gguf": b"one", "Q8/m.gguf": b"two"})
    assert isinstance(download_to_end(program.start(), DownloadSpec(REPO, "main", "", flat=True)).error, UnsafeName)


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


def test_a_paused_job_is_not_resumed_while_another_process_holds_it(hub: HubServer, program: Program) -> None:
    hub.fault(FIRST_SHARD, origin="cdn", stall_after=MIB)
    downloads = program.start()
    job = downloads.start(SPEC)
    until(lambda: view(downloads).done >= MIB)
    downloads.pause(job)
    wait_until_ended(downloads)
    with (program.models / ".downloads" / job / LOCK).open("rb") as lock:
        file_lock.acquire(lock.fileno())
        downloads.resume(job)
        downloads.cancel(job)
        assert view(downloads).state == "paused" and (program.models / ".downloads" / job / "00001.part").exists()
    downloads.cancel(job)
    assert view(downloads).state == "cancelled" and not (program.models / ".downloads" / job).exists()


def test_an_interrupted_job_whose_files_were_deleted_can_be_cancelled(hub: HubServer, program: Program) -> None:
    hub.fault(FIRST_SHARD, origin="cdn", stall_after=MIB)
    first_manager = program.start()
    job = first_manager.start(SPEC)
    until(lambda: view(first_manager).done >= MIB)
    first_manager.close()
    shutil.rmtree(program.models / ".downloads" / job)
    downloads = program.start()
    interrupted = view(downloads)
    assert (interrupted.state, interrupted.interrupted, interrupted.done) == ("paused", True, 0)
    downloads.cancel(job)
    assert view(downloads).state == "cancelled" and program.start().snapshot() == ()


def test_a_run_can_be_stopped_while_it_reads_files_that_are_present(hub: HubServer, program: Program) -> None:
    target, stop = program.models / SPEC.target, threading.Event()
    target.mkdir(parents=True)
    for name, content in FILES.items():
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_bytes(content)
    states: list[str] = []

    def on_change(record: JobRecord) -> None:
        states.append(record.state)
        if record.state == "verifying":
            stop.set()

    context = DownloadContext(lambda: [HubClient(hub.url)], HASTY, 0)
    job = InstallTarget(program.models, SPEC.target, "job", SPEC.flat)
    with pytest.raises(Stopped):
        DownloadRun(context, JobRecord("job", SPEC), job, stop, on_change).run()
    assert states == ["resolving", "verifying"] and read_files(target) == FILES


def test_a_download_without_files_fails(program: Program) -> None:
    result = download_to_end(program.start(), replace(SPEC, files=()))
    assert result.state == "failed" and isinstance(result.error, NothingToDownload)


def test_small_files_are_transferred_in_parallel_and_one_failure_stops_all(hub: HubServer, program: Program) -> None:
    files = {f"part-{number}.json": noise(50_000, number) for number in range(12)}
    hub.add("somebody/small", files)
    slow = hub.fault("part-", delay=0.1)
    downloads = program.start()
    result = download_to_end(downloads, DownloadSpec("somebody/small", "main", "small"))
    assert result.state == "done" and read_files(program.models / "small") == files
    requests = [request for request in hub.requests() if "part-" in request.path]
    assert 4 <= len({request.connection for request in requests}) <= 8 < len(requests), (
        "four to the hub and four to its CDN"
    )

    hub.faults.remove(slow)
    hub.fault("part-3", status=404, headers={"X-Error-Code": "EntryNotFound"})
    hub.fault("part-1.json", stall_after=10_000)
    started = time.monotonic()
    result = download_to_end(downloads, DownloadSpec("somebody/small", "main", "again"))
    assert isinstance(result.error, FileNotOnHub) and time.monotonic() - started < 10
    assert not (program.models / "again").exists()


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


@pytest.mark.parametrize("lfs_above", [10_000, 1 << 30])
def test_a_list_that_changes_after_the_sha256_was_compared_is_refused(
    hub: HubServer, program: Program, lfs_above: int
) -> None:
    commit = hub.add(REPO, {"m.gguf": noise(50_000, 1)})
    sha256 = hub.repos[REPO].commits[commit]["m.gguf"].sha256
    mirror, listing = list_repository(hub.url)
    mirror.close()
    spec = pin_checksum(Selection(listing, listing.files), sha256)
    other_commit = hub.add("somebody/else", {"m.gguf": noise(50_000, 2)}, lfs_above=lfs_above)
    hub.repos[REPO].commits[commit] = hub.repos["somebody/else"].commits[other_commit]
    result = download_to_end(program.start(), spec)
    assert result.state == "failed" and isinstance(result.error, DigestDiffers | DigestUnlisted)
    assert not (program.models / "m.gguf").exists() and hub.requests(origin="cdn") == []


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


def test_an_unsafe_pickle_is_never_installed(hub: HubServer, program: Program) -> None:
    files = {"config.json": b"{}", "pytorch_model.bin": b"cos\nsystem\n(S'true'\ntR."}
    hub.add("somebody/evil", files)
    downloads, spec = program.start(), DownloadSpec("somebody/evil", "main", "evil")
    result = download_to_end(downloads, spec)
    assert result.state == "failed" and isinstance(result.error, PickleRefused)
    assert "os.system" in result.error.say("zh")
    assert [path.name for path in program.models.iterdir()] == [".downloads"]
    hub.add("somebody/evil", files | {"pytorch_model.bin": pickle.dumps({"a": 1})})
    downloads.cancel(result.id)
    assert wait_until_ended(downloads, downloads.start(spec)).state == "done"


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


def test_an_invalid_endpoint_fails_the_job(program: Program) -> None:
    program.endpoints[:] = []
    downloads = DownloadManager(
        {"model": program.models, "lora": program.loras}, lambda: [HubClient(parse_endpoint("ftp://x"))]
    )
    result = download_to_end(downloads)
    assert result.state == "failed" and isinstance(result.error, BadEndpoint)


def test_a_restart_shows_the_job_as_interrupted_and_resumes_it(hub: HubServer, program: Program) -> None:
    fault = hub.fault(FIRST_SHARD, origin="cdn", stall_after=4 * MIB)
    first_manager = program.start()
    job = first_manager.start(SPEC)
    waiting = first_manager.start(replace(SPEC, target="next"))
    until(lambda: view(first_manager, job).done >= 4 * MIB)
    first_manager.close()
    hub.faults.remove(fault)
    sent_before = hub.sent
    second_manager = program.start()
    restored = view(second_manager, job)
    assert (restored.state, restored.interrupted, restored.total) == ("paused", True, TOTAL)
    assert restored.done >= 4 * MIB
    assert view(second_manager, waiting).state == "paused"
    second_manager.resume(job)
    assert wait_until_ended(second_manager, job).state == "done" and read_files(program.models / SPEC.target) == FILES
    assert hub.sent - sent_before < TOTAL - 4 * MIB + 5000


def test_the_old_commit_can_be_kept_after_the_branch_has_moved(hub: HubServer, program: Program) -> None:
    fault = hub.fault(SECOND_SHARD, origin="cdn", stall_after=MIB)
    downloads = program.start()
    job = downloads.start(SPEC)
    until(lambda: view(downloads).done > 7 * MIB)
    downloads.pause(job)
    old_commit = wait_until_ended(downloads).commit
    changed_files = {**FILES, "config.json": b'{"a": 2}'}
    new_commit = hub.add(REPO, changed_files)
    hub.faults.remove(fault)
    sent_before = hub.sent
    downloads.resume(job)
    result = wait_until_ended(downloads)
    assert (result.state, result.commit, result.moved) == ("paused", old_commit, new_commit)
    downloads.resume(job, keep_commit=True)
    assert wait_until_ended(downloads).state == "done" and read_files(program.models / SPEC.target) == FILES
    assert hub.sent - sent_before < 3 * MIB


def test_the_new_commit_can_be_taken_after_the_branch_has_moved(hub: HubServer, program: Program) -> None:
    fault = hub.fault(SECOND_SHARD, origin="cdn", stall_after=MIB)
    downloads = program.start()
    job = downloads.start(SPEC)
    until(lambda: view(downloads).done > 7 * MIB)
    downloads.pause(job)
    wait_until_ended(downloads)
    changed_files = {**FILES, "model-00001-of-00002.safetensors": noise(6 * MIB, 9)}
    new_commit = hub.add(REPO, changed_files)
    hub.faults.remove(fault)
    downloads.resume(job, keep_commit=False)
    result = wait_until_ended(downloads)
    assert (result.state, result.commit) == ("done", new_commit)
    assert read_files(program.models / SPEC.target) == changed_files


def test_files_already_present_are_kept_and_others_replaced(hub: HubServer, program: Program) -> None:
    target = program.models / SPEC.target
    (target / "onnx").mkdir(parents=True)
    for path in ("model-00001-of-00002.safetensors", "onnx/readme.md"):
        (target / path).write_bytes(FILES[path])
    (target / "model-00002-of-00002.safetensors").write_bytes(b"\0" * (3 * MIB))
    (target / "config.json").write_bytes(b"mine")
    (target / "notes.txt").write_bytes(b"keep")
    inode_before = (target / "model-00001-of-00002.safetensors").stat().st_ino
    assert download_to_end(program.start()).state == "done"
    assert read_files(target) == {**FILES, "notes.txt": b"keep"}
    assert (target / "model-00001-of-00002.safetensors").stat().st_ino == inode_before
    assert hub.sent < 3 * MIB + 5000


def test_an_old_file_stays_until_the_new_one_is_verified(hub: HubServer, program: Program) -> None:
    target = program.models / SPEC.target
    target.mkdir(parents=True)
    (target / "config.json").write_bytes(b"mine")
    hub.fault(SECOND_SHARD, origin="cdn", corrupt=5)
    result = download_to_end(program.start())
    assert result.state == "failed" and isinstance(result.error, ChecksumMismatch)
    assert read_files(target) == {"config.json": b"mine"}


def test_an_interrupted_installation_is_completed_on_resume(hub: HubServer, program: Program) -> None:
    fault = hub.fault(SECOND_SHARD, origin="cdn", stall_after=MIB)
    downloads = program.start()
    job = downloads.start(SPEC)
    until(lambda: view(downloads).done > 7 * MIB)
    downloads.pause(job)
    wait_until_ended(downloads)
    tree = program.models / ".downloads" / job / "tree"
    tree.mkdir()
    (program.models / ".downloads" / job / "00001.part").rename(tree / "model-00001-of-00002.safetensors")
    hub.faults.remove(fault)
    downloads.resume(job)
    assert wait_until_ended(downloads).state == "done" and read_files(program.models / SPEC.target) == FILES
    assert len(hub.requests(FIRST_SHARD, origin="cdn")) == 1


@pytest.mark.parametrize("inside", [True, False], ids=["a folder in the target", "the target"])
def test_a_link_in_the_target_is_not_written_through(hub: HubServer, program: Program, inside: bool) -> None:
    outside = program.models.parent / "outside"
    outside.mkdir()
    target = program.models / SPEC.target
    link = target / "onnx" if inside else target
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    result = download_to_end(program.start())
    assert result.state == "failed" and isinstance(result.error, LinkInTheWay)
    assert list(outside.iterdir()) == [] and hub.requests(origin="cdn") == []


def test_missing_disk_space_is_reported_before_the_download(hub: HubServer, program: Program) -> None:
    result = download_to_end(program.start(reserve=1 << 60))
    assert result.state == "paused" and isinstance(result.error, DiskFull)
    assert result.error.needed == (1 << 60) + TOTAL and 0 < result.error.free < 1 << 50
    assert hub.requests(origin="cdn") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A 20 MiB file system."""
    mount_point = tmp_path / "small disk"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(mount_point)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield mount_point
    subprocess.run(["umount", "-l", str(mount_point)], check=True)


def test_a_disk_that_is_too_small_pauses_the_job(hub: HubServer, small_disk: Path) -> None:
    hub.add(REPO, {**FILES, "more.safetensors": noise(15 * MIB, 5)})
    program = Program(small_disk, [hub.url])
    downloads = program.start()
    result = download_to_end(downloads)
    assert result.state == "paused" and isinstance(result.error, DiskFull)
    assert result.error.needed > 24 * MIB and result.error.free <= 20 * MIB
    assert hub.requests(origin="cdn") == []
    downloads.close()


def test_a_disk_that_fills_up_pauses_the_job_until_there_is_space(hub: HubServer, small_disk: Path) -> None:
    program = Program(small_disk, [hub.url])
    fault = hub.fault(FIRST_SHARD, origin="cdn", stall_after=4 * MIB)
    downloads = program.start()
    job = downloads.start(SPEC)
    until(lambda: view(downloads).done >= 4 * MIB)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"\0" * 4096)
            file.flush()
    hub.faults.remove(fault)
    with hub.lock:
        connections = list(hub.connections)
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(2)
    result = wait_until_ended(downloads)
    assert result.state == "paused" and isinstance(result.error, DiskFull) and result.done >= 4 * MIB
    filler.unlink()
    downloads.resume(job)
    assert wait_until_ended(downloads).state == "done" and read_files(program.models / SPEC.target) == FILES
    assert len(hub.requests(FIRST_SHARD, origin="cdn")) <= 3
    downloads.close()


def test_two_managers_of_the_same_folders_share_one_job(hub: HubServer, program: Program) -> None:
    """Two managers behave like two processes, because the locks belong to open files, not to processes."""
    fault = hub.fault(FIRST_SHARD, origin="cdn", stall_after=MIB)
    first_manager, second_manager = program.start(), program.start()
    job = first_manager.start(SPEC)
    assert second_manager.start(SPEC) == job
    until(lambda: view(first_manager).done >= MIB)
    assert view(second_manager).elsewhere and view(second_manager).state == "downloading"
    second_manager.resume(job)
    second_manager.cancel(job)
    assert view(first_manager).state == "downloading"
    first_manager.pause(job)
    wait_until_ended(first_manager)
    hub.faults.remove(fault)
    second_manager.resume(job)
    assert wait_until_ended(second_manager).state == "done"
    assert [job.state for job in first_manager.snapshot()] in ([], ["done"])
    assert read_files(program.models / SPEC.target) == FILES


def start_process(folder: Path, hub: HubServer) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.download_alone", str(folder), hub.url]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_second_process_sees_the_job_as_running_elsewhere(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(FIRST_SHARD, origin="cdn", stall_after=MIB)
    first_process = start_process(tmp_path, hub)
    try:
        assert first_process.stdout
        while not first_process.stdout.readline().startswith("downloading"):
            pass
        second_process = start_process(tmp_path, hub)
        output, _ = second_process.communicate(timeout=20)
        assert output.splitlines()[-1].startswith("downloading True")
    finally:
        first_process.kill()
        first_process.wait()
        first_process.stdout.close()


def test_a_killed_process_loses_almost_no_progress(whole_program: None, hub: HubServer, tmp_path: Path) -> None:
    """Kill three processes in a row, each of which resumes over four connections of 3 MB/s."""
    file_bytes = noise(24 * MIB, 4)
    hub.add(REPO, {"model.safetensors": file_bytes})
    rate = 3_000_000
    hub.fault("model.safetensors", origin="cdn", rate=rate)
    generator = random.Random()
    sent_before = hub.sent
    for kill in range(3):
        process = start_process(tmp_path, hub)
        assert process.stdout
        until(lambda: len(hub.requests(origin="cdn")) > 4 * kill, 20)  # noqa: B023
        time.sleep(generator.uniform(0.1, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    hub.faults.clear()
    process = start_process(tmp_path, hub)
    output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == f"done False {len(file_bytes)}"
    path = tmp_path / "models" / "something" / "model.safetensors"
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
    assert digest == next(iter(hub.repos[REPO].commits[hub.repos[REPO].branches["main"]].values())).sha256
    in_flight = 3 * 4 * (256 << 10) * 4  # Bytes that the kernel had received but no process read.
    assert hub.sent - sent_before <= len(file_bytes) + 3 * (4 * rate * SPLIT.save_seconds) + in_flight


def test_a_job_fails_if_no_mirror_can_be_reached(program: Program) -> None:
    program.endpoints[:] = ["http://127.0.0.1:9"]
    result = download_to_end(program.start())
    assert result.state == "failed" and isinstance(result.error, MirrorUnreachable)


def test_the_next_mirror_is_used_if_the_first_cannot_be_reached(hub: HubServer, program: Program) -> None:
    program.endpoints.insert(0, "http://127.0.0.1:9")
    result = download_to_end(program.start())
    assert result.state == "done" and read_files(result.folder) == FILES


def test_a_mirror_whose_cdn_fails_is_retried_once_before_the_next(hub: HubServer, program: Program) -> None:
    hub.fault("", origin="cdn", status=503)
    with HubServer() as second_hub:
        second_hub.add(REPO, FILES)
        program.endpoints.append(second_hub.url)
        result = download_to_end(program.start(SPLIT))
    assert result.state == "done" and read_files(result.folder) == FILES
    assert len(hub.requests(origin="cdn")) == 1 + SPLIT.retry.waits_with_others


def test_done_listeners_are_called_when_a_model_is_complete(hub: HubServer, program: Program) -> None:
    downloads, calls = program.start(), list[bool]()
    downloads.on_done(lambda: calls.append((program.models / SPEC.target / "config.json").exists()))
    download_to_end(downloads)
    until(lambda: calls)
    assert calls == [True]
    download_to_end(downloads, replace(SPEC, files=("nothing",)))
    assert calls == [True]


def test_the_token_is_never_written_or_logged(
    hub: HubServer, program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    hub.token = "hf_very_secret"
    hub.add("private/one", {"model.safetensors": noise(2 * MIB), "x.safetensors": b"x" * 20_000}, private=True)
    hub.fault("x.safetensors", origin="cdn", status=500)
    host = hub.url.removeprefix("http://")
    downloads = program.start(token=AccessToken(hub.token, frozenset({host})))
    result = download_to_end(downloads, replace(SPEC, repo="private/one"))
    assert result.state == "failed" and result.done >= 2 * MIB
    file_bytes = b"".join(path.read_bytes() for path in program.models.rglob("*") if path.is_file())
    assert b"jobs.json" in b"".join(str(path).encode() for path in program.models.rglob("*"))
    for text in (file_bytes.decode("latin1"), caplog.text, str(result), repr(result)):
        assert hub.token not in text


def test_a_large_file_takes_little_memory(hub: HubServer, program: Program) -> None:
    size = 256 * MIB
    sparse = program.models.parent / "sparse"
    with sparse.open("wb") as file:
        file.truncate(size)
    hub.add(REPO, {"model.safetensors": sparse})
    memory_before = peak_memory = cpu_memory.resident_memory(os.getpid())
    downloads = program.start(TransferOptions())
    downloads.start(SPEC)
    while view(downloads).state not in ("done", "failed"):
        peak_memory = max(peak_memory, cpu_memory.resident_memory(os.getpid()))
        time.sleep(0.05)
    assert view(downloads).state == "done"
    assert (program.models / SPEC.target / "model.safetensors").stat().st_size == size
    assert peak_memory - memory_before < 100 * MIB


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
