"""Download jobs queue, stop at once, survive a restart and a kill, and install their files when all are complete.

They use the real client and a hub on localhost.
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
from modules.downloads.context import MIB, TransferOptions
from modules.downloads.errors import (
    ChecksumMismatch,
    DigestDiffers,
    DigestUnlisted,
    DiskFull,
    DownloadNotFound,
    PickleRefused,
)
from modules.downloads.manager import DownloadManager
from modules.downloads.record import DownloadSpec
from modules.downloads.request import Selection, pin_checksum
from modules.downloads.retry import RetryPolicy
from modules.downloads.view import JobView
from modules.hub.access_token import AccessToken
from modules.hub.client import HubClient
from modules.hub.endpoint_url import parse_endpoint
from modules.hub.errors import (
    BadEndpoint,
    FileNotOnHub,
    LinkInTheWay,
    MirrorUnreachable,
    RateLimited,
    RepositoryNotFound,
    UnsafeName,
)
from modules.system import cpu_memory
from tests.support.downloading import HASTY, REPO, SPLIT, listed, noise, threads, until
from tests.support.hub_server import HubServer

FILES = {
    "config.json": b'{"a": 1}',
    "model-00001-of-00002.safetensors": noise(6 * MIB, 1),
    "model-00002-of-00002.safetensors": noise(3 * MIB, 2),
    "onnx/readme.md": noise(2000, 3),
}
TOTAL = sum(map(len, FILES.values()))
FIRST, SECOND = "model-00001", "model-00002"
WANTED = DownloadSpec(REPO, "main", "somebody_something")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as made:
        made.add(REPO, FILES)
        yield made


class Program:
    """Creates managers of the same folders, as repeated starts of the program do, and closes them in the end."""

    def __init__(self, folder: Path, endpoints: list[str]) -> None:
        self.models, self.loras = folder / "models", folder / "loras"
        self.endpoints = endpoints
        self.running: list[DownloadManager] = []

    def start(
        self, options: TransferOptions = HASTY, reserve: int = 0, max_running: int = 1, token: AccessToken | None = None
    ) -> DownloadManager:
        made = DownloadManager(
            {"model": self.models, "lora": self.loras},
            lambda: [HubClient(each, token) for each in self.endpoints],
            options,
            max_running,
            reserve,
        )
        self.running.append(made)
        return made


@pytest.fixture
def program(hub: HubServer, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path, [hub.url])
    yield made
    for each in made.running:
        each.close()
    until(lambda: threads() == [], 1)


def view(downloads: DownloadManager, job: str = "") -> JobView:
    """Return the view of a job; without an id, of the only one."""
    found = [each for each in downloads.snapshot() if each.id == job or not job]
    assert len(found) == 1
    return found[0]


def ended(downloads: DownloadManager, job: str = "", seconds: float = 20) -> JobView:
    until(lambda: view(downloads, job).state in ("done", "failed", "paused", "cancelled"), seconds)
    return view(downloads, job)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "huggingface-metadata.txt"
    }


def test_a_repository_arrives_as_it_is_and_leaves_nothing_behind(hub: HubServer, program: Program) -> None:
    downloads = program.start()
    job = downloads.start(WANTED)
    told = ended(downloads, job)
    assert (told.state, told.error, told.done, told.total, told.count) == ("done", None, TOTAL, TOTAL, 4)
    asked = hub.requests(origin="hub")
    assert len({each.connection for each in asked}) < len(asked), "connections are used again"
    assert told.folder == program.models / WANTED.target and content(told.folder) == FILES
    assert not (program.models / ".downloads" / job).exists()
    assert json.loads((program.models / ".downloads" / "jobs.json").read_text()) == []
    judged = subprocess.run(
        ["sha256sum", "-c", "-"],
        input="".join(
            f"{entry.sha256}  {path}\n" for path, entry in hub.repos[REPO].commits[told.commit].items() if entry.sha256
        ),
        cwd=told.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0 and judged.stdout.count("OK") == 2


def test_huggingface_hub_verifies_the_downloaded_files(hub: HubServer, program: Program) -> None:
    told = ended_after_start(program.start())
    online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    checked = subprocess.run(
        [
            *(ROOT / ".venv" / "bin" / "hf", "cache", "verify", REPO, "--local-dir", told.folder),
            "--fail-on-missing-files",
        ],
        env={**os.environ, **online, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(program.models / "hf")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def ended_after_start(downloads: DownloadManager, wanted: DownloadSpec = WANTED) -> JobView:
    return ended(downloads, downloads.start(wanted))


def test_the_folder_appears_only_when_it_is_complete(hub: HubServer, program: Program) -> None:
    hub.fault(SECOND, origin="cdn", stall_after=MIB)
    downloads = program.start()
    downloads.start(WANTED)
    until(lambda: view(downloads).file.startswith(SECOND) and view(downloads).done > 7 * MIB)
    assert [each.name for each in program.models.iterdir()] == [".downloads"]


def test_the_note_of_the_original_is_next_to_the_files(hub: HubServer, program: Program) -> None:
    told = ended_after_start(program.start())
    entries = hub.repos[REPO].commits[told.commit]
    lines = (told.folder / "huggingface-metadata.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == [f"url: https://huggingface.co/{REPO}", "branch: main"]
    assert lines[2].startswith("download date: 20")
    assert lines[3:5] == [f"commit: {told.commit}", f"endpoint: {hub.url.removeprefix('http://')}"]
    assert lines[5:] == [
        "sha256sum:",
        *(f"    {entry.sha256} {path}" for path, entry in entries.items() if entry.sha256),
    ]


def test_selected_files_can_go_to_the_lora_folder(program: Program) -> None:
    wanted = DownloadSpec(REPO, "main", "adapter", ("config.json", "onnx/readme.md"), "lora")
    told = ended_after_start(program.start(), wanted)
    assert told.folder == program.loras / "adapter" and told.count == 2
    assert content(told.folder) == {path: FILES[path] for path in wanted.files or ()}


def test_a_single_file_goes_directly_to_the_models_folder(hub: HubServer, program: Program) -> None:
    hub.add(REPO, {"Q4/model.gguf": FILES["onnx/readme.md"]})
    ended_after_start(program.start(), DownloadSpec(REPO, "main", "", ("Q4/model.gguf",), flat=True))
    assert sorted(each.name for each in program.models.iterdir()) == [".downloads", "model.gguf"]
    assert (program.models / "model.gguf").read_bytes() == FILES["onnx/readme.md"]


def test_the_parts_of_a_split_file_go_to_one_folder(hub: HubServer, program: Program) -> None:
    hub.add(REPO, {"Q4/m-00001-of-00002.gguf": b"one", "Q4/m-00002-of-00002.gguf": b"two"})
    told = ended_after_start(program.start(), DownloadSpec(REPO, "main", "m", flat=True))
    assert content(told.folder) == {"m-00001-of-00002.gguf": b"one", "m-00002-of-00002.gguf": b"two"}


def test_two_files_with_the_same_target_are_refused(hub: HubServer, program: Program) -> None:
    hub.add(REPO, {"Q4/m.gguf": b"one", "Q8/m.gguf": b"two"})
    assert isinstance(ended_after_start(program.start(), DownloadSpec(REPO, "main", "", flat=True)).error, UnsafeName)


def test_missing_files_repositories_and_jobs_are_reported(program: Program) -> None:
    downloads = program.start()
    assert isinstance(ended_after_start(downloads, replace(WANTED, files=("confg.json",))).error, FileNotOnHub)
    assert isinstance(ended_after_start(downloads, replace(WANTED, repo="no/such")).error, RepositoryNotFound)
    assert [each.state for each in downloads.snapshot()] == ["failed", "failed"]
    with pytest.raises(DownloadNotFound):
        downloads.pause("nonsense")
    with pytest.raises(UnsafeName):
        downloads.start(replace(WANTED, target="../elsewhere"))


def test_progress_is_shown_while_a_job_runs(hub: HubServer, program: Program) -> None:
    hub.fault("safetensors", origin="cdn", rate=6_000_000)
    downloads = program.start()
    downloads.start(WANTED)
    seen: list[JobView] = []
    while not seen or seen[-1].state not in ("done", "failed"):
        seen.append(view(downloads))
        time.sleep(0.02)
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    moving = [each for each in seen if each.speed and each.done > 3 * MIB]
    assert {each.total for each in moving} == {TOTAL} and {each.count for each in moving} == {4}
    assert {each.file for each in moving} & {path for path in FILES if "safetensors" in path}
    assert all(3_000_000 < each.speed < 14_000_000 for each in moving if each.speed)
    assert all(each.seconds_left is not None and each.seconds_left < 3 for each in moving)
    assert {each.host for each in moving} == {hub.url.removeprefix("http://")}


def test_one_job_runs_and_the_others_queue(hub: HubServer, program: Program) -> None:
    fault = hub.fault("safetensors", origin="cdn", stall_after=MIB)
    downloads = program.start()
    first, second = downloads.start(WANTED), downloads.start(replace(WANTED, target="other"))
    until(lambda: view(downloads, first).done > MIB / 2)
    assert view(downloads, second).state == "queued"
    hub.faults.remove(fault)
    downloads.pause(first)
    assert ended(downloads, second).state == "done" and view(downloads, first).state == "paused"
    downloads.resume(first)
    assert ended(downloads, first).state == "done"


def test_small_files_are_transferred_together_and_one_failure_stops_all(hub: HubServer, program: Program) -> None:
    files = {f"part-{number}.json": noise(50_000, number) for number in range(12)}
    hub.add("somebody/small", files)
    slow = hub.fault("part-", delay=0.2)
    downloads = program.start()
    told = ended_after_start(downloads, DownloadSpec("somebody/small", "main", "small"))
    assert told.state == "done" and content(program.models / "small") == files
    asked = [each for each in hub.requests() if "part-" in each.path]
    assert 4 <= len({each.connection for each in asked}) <= 8 < len(asked), "four to the hub, four to its CDN"

    hub.faults.remove(slow)
    hub.fault("part-3", status=404, headers={"X-Error-Code": "EntryNotFound"})
    hub.fault("part-1.json", stall_after=10_000)
    begun = time.monotonic()
    told = ended_after_start(downloads, DownloadSpec("somebody/small", "main", "again"))
    assert isinstance(told.error, FileNotOnHub) and time.monotonic() - begun < 10
    assert not (program.models / "again").exists()


def test_as_many_jobs_run_as_configured(hub: HubServer, program: Program) -> None:
    hub.fault("safetensors", origin="cdn", stall_after=MIB)
    downloads = program.start(max_running=2)
    for target in ("one", "two", "three"):
        downloads.start(replace(WANTED, target=target))
    until(lambda: [each.state for each in downloads.snapshot()] == ["downloading", "downloading", "queued"])


def test_starting_the_same_download_twice_is_one_job(hub: HubServer, program: Program) -> None:
    hub.fault("safetensors", origin="cdn", stall_after=MIB)
    downloads = program.start()
    files = tuple(FILES)
    jobs = {downloads.start(replace(WANTED, files=each)) for each in (files, files[::-1], files)}
    assert len(jobs) == 1 and len(downloads.snapshot()) == 1
    assert downloads.start(replace(WANTED, files=files[:1])) not in jobs


PATIENT = TransferOptions(RetryPolicy(waits=(60,) * 6))
STOPS: dict[str, tuple[dict[str, object], TransferOptions]] = {
    "while it asks what there is": ({"pattern": "/api/", "delay": 30}, HASTY),
    "while bytes come": ({"pattern": FIRST, "origin": "cdn", "rate": 400_000}, SPLIT),
    "while it stalls": ({"pattern": FIRST, "origin": "cdn", "stall_after": 100_000}, SPLIT),
    "in a wait between tries": ({"pattern": FIRST, "origin": "cdn", "status": 503}, PATIENT),
    "in a wait of the list": ({"pattern": "/api/", "status": 503}, PATIENT),
    "in the wait for a limit": (
        {"pattern": FIRST, "origin": "cdn", "status": 429, "headers": {"Retry-After": "200"}},
        HASTY,
    ),
}


@pytest.mark.parametrize("name", STOPS)
def test_pause_and_cancel_take_less_than_a_second(hub: HubServer, program: Program, name: str) -> None:
    fault, options = STOPS[name]
    struck = hub.fault(**fault)  # type: ignore[arg-type]
    downloads = program.start(options)
    job = downloads.start(WANTED)
    until(lambda: struck.seen)
    time.sleep(0.2)
    downloads.pause(job)
    until(lambda: view(downloads).state == "paused", 1)
    until(lambda: threads() == [], 1)
    seen = struck.seen
    downloads.resume(job)
    until(lambda: struck.seen > seen)
    time.sleep(0.2)
    downloads.cancel(job)
    until(lambda: view(downloads).state == "cancelled", 1)
    until(lambda: threads() == [], 1)
    assert not (program.models / ".downloads" / job).exists()
    downloads.forget(job)
    assert downloads.snapshot() == ()


@pytest.mark.parametrize("lfs_above", [10_000, 1 << 30])
def test_a_list_that_changes_after_the_sha256_was_compared_is_refused(
    hub: HubServer, program: Program, lfs_above: int
) -> None:
    commit = hub.add(REPO, {"m.gguf": noise(50_000, 1)})
    known = hub.repos[REPO].commits[commit]["m.gguf"].sha256
    mirror, listing = listed(hub.url)
    mirror.close()
    wanted = pin_checksum(Selection(listing, listing.files), known)
    other = hub.add("somebody/else", {"m.gguf": noise(50_000, 2)}, lfs_above=lfs_above)
    hub.repos[REPO].commits[commit] = hub.repos["somebody/else"].commits[other]
    told = ended_after_start(program.start(), wanted)
    assert told.state == "failed" and isinstance(told.error, DigestDiffers | DigestUnlisted)
    assert not (program.models / "m.gguf").exists() and hub.requests(origin="cdn") == []


def test_other_jobs_are_shown_and_start_while_one_is_being_deleted(
    hub: HubServer, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault(FIRST, origin="cdn", stall_after=MIB)
    downloads = program.start()
    job = downloads.start(WANTED)
    until(lambda: view(downloads).done > MIB / 2)
    downloads.pause(job)
    ended(downloads)
    hub.faults.clear()
    deleting, go_on, rmtree = threading.Event(), threading.Event(), shutil.rmtree

    def slow(*told: Any, **more: Any) -> None:
        deleting.set()
        assert go_on.wait(10)
        rmtree(*told, **more)

    monkeypatch.setattr(shutil, "rmtree", slow)
    cancelling = threading.Thread(target=downloads.cancel, args=(job,))
    cancelling.start()
    assert deleting.wait(5)
    assert view(downloads, job).state == "cancelled"
    again = downloads.start(WANTED)
    downloads.resume(job)
    until(lambda: view(downloads, again).done == TOTAL)
    assert again != job
    go_on.set()
    cancelling.join(5)
    assert ended(downloads, again).state == "done" and not (program.models / ".downloads" / job).exists()
    assert json.loads((program.models / ".downloads" / "jobs.json").read_text()) == []


def test_a_job_that_cannot_be_queued_again_does_not_block_the_queue(
    hub: HubServer, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault(FIRST, origin="cdn", stall_after=MIB)
    downloads = program.start()
    first = downloads.start(WANTED)
    second = downloads.start(replace(WANTED, target="other", files=("config.json",)))  # it must not stall, too
    until(lambda: view(downloads, first).done > MIB / 2)

    def full(_: object) -> None:
        raise DiskFull("models", 2, 1)

    monkeypatch.setattr(downloads, "_queue", full)
    with downloads._lock:  # else the job may stop in between, and `resume` raises the error itself
        downloads.pause(first)
        downloads.resume(first)
    told = ended(downloads, first)
    assert told.state == "paused" and isinstance(told.error, DiskFull)
    assert ended(downloads, second).state == "done"


def test_an_unsafe_pickle_is_never_installed(hub: HubServer, program: Program) -> None:
    files = {"config.json": b"{}", "pytorch_model.bin": b"cos\nsystem\n(S'true'\ntR."}
    hub.add("somebody/evil", files)
    downloads, wanted = program.start(), DownloadSpec("somebody/evil", "main", "evil")
    told = ended_after_start(downloads, wanted)
    assert told.state == "failed" and isinstance(told.error, PickleRefused) and "os.system" in told.error.say("zh")
    assert [each.name for each in program.models.iterdir()] == [".downloads"]
    hub.add("somebody/evil", files | {"pytorch_model.bin": pickle.dumps({"a": 1})})
    downloads.cancel(told.id)
    assert ended(downloads, downloads.start(wanted)).state == "done"


def test_a_rate_limit_is_shown_with_its_waiting_time(hub: HubServer, program: Program) -> None:
    hub.fault(FIRST, origin="cdn", status=429, headers={"Retry-After": "200"}, times=1)
    downloads = program.start()
    downloads.start(WANTED)
    until(lambda: isinstance(view(downloads).waiting, RateLimited))
    assert 195 < view(downloads).wait_seconds <= 200


def test_a_paused_job_resumes_where_it_stopped(hub: HubServer, program: Program) -> None:
    fault = hub.fault(FIRST, origin="cdn", stall_after=4 * MIB)
    downloads = program.start()
    job = downloads.start(WANTED)
    until(lambda: view(downloads).done >= 4 * MIB)
    downloads.pause(job)
    assert ended(downloads).done >= 4 * MIB
    hub.faults.remove(fault)
    before = hub.sent
    downloads.resume(job)
    assert ended(downloads).state == "done" and content(program.models / WANTED.target) == FILES
    assert hub.sent - before < TOTAL - 4 * MIB + 5000


def test_a_resume_just_after_a_pause_is_not_lost(hub: HubServer, program: Program) -> None:
    fault = hub.fault(FIRST, origin="cdn", stall_after=4 * MIB)
    downloads = program.start()
    job = downloads.start(WANTED)
    until(lambda: view(downloads).done >= 4 * MIB)
    hub.faults.remove(fault)
    downloads.pause(job)
    downloads.resume(job)
    until(lambda: view(downloads).state == "done")
    assert content(program.models / WANTED.target) == FILES


@pytest.mark.parametrize(("method", "state"), [("resume", "done"), ("cancel", "cancelled")])
def test_a_request_just_after_a_paused_run_has_stopped_is_not_lost(
    hub: HubServer, program: Program, monkeypatch: pytest.MonkeyPatch, method: str, state: str
) -> None:
    fault = hub.fault(FIRST, origin="cdn", stall_after=4 * MIB)
    downloads = program.start()
    execute, requests = downloads._execute, [getattr(downloads, method)]

    def execute_then_request(*run: Any) -> Any:
        outcome = execute(*run)
        while requests:  # at the end of the first run only
            requests.pop()(job)
        return outcome

    monkeypatch.setattr(downloads, "_execute", execute_then_request)
    job = downloads.start(WANTED)
    until(lambda: view(downloads).done >= 4 * MIB)
    hub.faults.remove(fault)
    downloads.pause(job)
    assert ended(downloads).state == state
    assert not (program.models / ".downloads" / job).exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unexpected_exception_fails_the_job(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    nothing: dict[str, list[HubClient]] = {}
    downloads = DownloadManager({"model": program.models, "lora": program.loras}, lambda: nothing["mirrors"])
    told = ended_after_start(downloads)
    assert told.state == "failed" and isinstance(told.error, InternalError)
    until(lambda: "KeyError" in caplog.text and told.id in caplog.text)


def test_an_invalid_endpoint_fails_the_job(program: Program) -> None:
    program.endpoints[:] = []
    downloads = DownloadManager(
        {"model": program.models, "lora": program.loras}, lambda: [HubClient(parse_endpoint("ftp://x"))]
    )
    told = ended_after_start(downloads)
    assert told.state == "failed" and isinstance(told.error, BadEndpoint)


def test_a_restart_shows_the_job_as_interrupted_and_resumes_it(hub: HubServer, program: Program) -> None:
    fault = hub.fault(FIRST, origin="cdn", stall_after=4 * MIB)
    before = program.start()
    job = before.start(WANTED)
    waiting = before.start(replace(WANTED, target="next"))
    until(lambda: view(before, job).done >= 4 * MIB)
    before.close()
    hub.faults.remove(fault)
    sent = hub.sent
    after = program.start()
    found = view(after, job)
    assert (found.state, found.interrupted, found.total) == ("paused", True, TOTAL) and found.done >= 4 * MIB
    assert view(after, waiting).state == "paused"
    after.resume(job)
    assert ended(after, job).state == "done" and content(program.models / WANTED.target) == FILES
    assert hub.sent - sent < TOTAL - 4 * MIB + 5000


def test_the_old_commit_can_be_kept_after_the_branch_has_moved(hub: HubServer, program: Program) -> None:
    fault = hub.fault(SECOND, origin="cdn", stall_after=MIB)
    downloads = program.start()
    job = downloads.start(WANTED)
    until(lambda: view(downloads).done > 7 * MIB)
    downloads.pause(job)
    old = ended(downloads).commit
    changed = {**FILES, "config.json": b'{"a": 2}'}
    new = hub.add(REPO, changed)
    hub.faults.remove(fault)
    sent = hub.sent
    downloads.resume(job)
    told = ended(downloads)
    assert (told.state, told.commit, told.moved) == ("paused", old, new)
    downloads.resume(job, keep_commit=True)
    assert ended(downloads).state == "done" and content(program.models / WANTED.target) == FILES
    assert hub.sent - sent < 3 * MIB


def test_the_new_commit_can_be_taken_after_the_branch_has_moved(hub: HubServer, program: Program) -> None:
    fault = hub.fault(SECOND, origin="cdn", stall_after=MIB)
    downloads = program.start()
    job = downloads.start(WANTED)
    until(lambda: view(downloads).done > 7 * MIB)
    downloads.pause(job)
    ended(downloads)
    changed = {**FILES, "model-00001-of-00002.safetensors": noise(6 * MIB, 9)}
    new = hub.add(REPO, changed)
    hub.faults.remove(fault)
    downloads.resume(job, keep_commit=False)
    told = ended(downloads)
    assert (told.state, told.commit) == ("done", new) and content(program.models / WANTED.target) == changed


def test_files_already_present_are_kept_and_others_replaced(hub: HubServer, program: Program) -> None:
    target = program.models / WANTED.target
    (target / "onnx").mkdir(parents=True)
    for path in ("model-00001-of-00002.safetensors", "onnx/readme.md"):
        (target / path).write_bytes(FILES[path])
    (target / "model-00002-of-00002.safetensors").write_bytes(b"\0" * (3 * MIB))
    (target / "config.json").write_bytes(b"mine")
    (target / "notes.txt").write_bytes(b"keep")
    kept = (target / "model-00001-of-00002.safetensors").stat().st_ino
    assert ended_after_start(program.start()).state == "done"
    assert content(target) == {**FILES, "notes.txt": b"keep"}
    assert (target / "model-00001-of-00002.safetensors").stat().st_ino == kept
    assert hub.sent < 3 * MIB + 5000


def test_an_old_file_stays_until_the_new_one_is_verified(hub: HubServer, program: Program) -> None:
    target = program.models / WANTED.target
    target.mkdir(parents=True)
    (target / "config.json").write_bytes(b"mine")
    hub.fault(SECOND, origin="cdn", corrupt=5)
    told = ended_after_start(program.start())
    assert told.state == "failed" and isinstance(told.error, ChecksumMismatch)
    assert content(target) == {"config.json": b"mine"}


def test_an_interrupted_installation_is_completed_on_resume(hub: HubServer, program: Program) -> None:
    fault = hub.fault(SECOND, origin="cdn", stall_after=MIB)
    downloads = program.start()
    job = downloads.start(WANTED)
    until(lambda: view(downloads).done > 7 * MIB)
    downloads.pause(job)
    ended(downloads)
    tree = program.models / ".downloads" / job / "tree"
    tree.mkdir()
    (program.models / ".downloads" / job / "00001.part").rename(tree / "model-00001-of-00002.safetensors")
    hub.faults.remove(fault)
    downloads.resume(job)
    assert ended(downloads).state == "done" and content(program.models / WANTED.target) == FILES
    assert len(hub.requests(FIRST, origin="cdn")) == 1


@pytest.mark.parametrize("inside", [True, False], ids=["a folder in the target", "the target"])
def test_a_link_in_the_target_is_not_written_through(hub: HubServer, program: Program, inside: bool) -> None:
    outside = program.models.parent / "outside"
    outside.mkdir()
    target = program.models / WANTED.target
    link = target / "onnx" if inside else target
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    told = ended_after_start(program.start())
    assert told.state == "failed" and isinstance(told.error, LinkInTheWay)
    assert list(outside.iterdir()) == [] and hub.requests(origin="cdn") == []


def test_missing_disk_space_is_reported_before_the_download(hub: HubServer, program: Program) -> None:
    told = ended_after_start(program.start(reserve=1 << 60))
    assert told.state == "paused" and isinstance(told.error, DiskFull)
    assert told.error.needed == (1 << 60) + TOTAL and 0 < told.error.free < 1 << 50
    assert hub.requests(origin="cdn") == []


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MiB."""
    place = tmp_path / "little"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_too_small_pauses_the_job(hub: HubServer, little_disk: Path) -> None:
    hub.add(REPO, {**FILES, "more.safetensors": noise(15 * MIB, 5)})
    program = Program(little_disk, [hub.url])
    downloads = program.start()
    told = ended_after_start(downloads)
    assert told.state == "paused" and isinstance(told.error, DiskFull)
    assert told.error.needed > 24 * MIB and told.error.free <= 20 * MIB
    assert hub.requests(origin="cdn") == []
    downloads.close()


def test_a_disk_that_fills_up_pauses_the_job_until_there_is_space(hub: HubServer, little_disk: Path) -> None:
    program = Program(little_disk, [hub.url])
    slow = hub.fault(FIRST, origin="cdn", stall_after=4 * MIB)
    downloads = program.start()
    job = downloads.start(WANTED)
    until(lambda: view(downloads).done >= 4 * MIB)
    filler = little_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"\0" * 4096)
            file.flush()
    hub.faults.remove(slow)
    with hub.lock:
        connections = list(hub.connections)
    for each in connections:
        with contextlib.suppress(OSError):
            each.shutdown(2)
    told = ended(downloads)
    assert told.state == "paused" and isinstance(told.error, DiskFull) and told.done >= 4 * MIB
    filler.unlink()
    downloads.resume(job)
    assert ended(downloads).state == "done" and content(program.models / WANTED.target) == FILES
    assert len(hub.requests(FIRST, origin="cdn")) <= 3
    downloads.close()


def test_two_managers_of_the_same_folders_share_one_job(hub: HubServer, program: Program) -> None:
    """This works like two processes, because the locks belong to open files, not to processes."""
    fault = hub.fault(FIRST, origin="cdn", stall_after=MIB)
    one, other = program.start(), program.start()
    job = one.start(WANTED)
    assert other.start(WANTED) == job
    until(lambda: view(one).done >= MIB)
    assert view(other).elsewhere and view(other).state == "downloading"
    other.resume(job)
    other.cancel(job)
    assert view(one).state == "downloading"
    one.pause(job)
    ended(one)
    hub.faults.remove(fault)
    other.resume(job)
    assert ended(other).state == "done"
    assert [each.state for each in one.snapshot()] in ([], ["done"])
    assert content(program.models / WANTED.target) == FILES


def alone(folder: Path, hub: HubServer) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.download_alone", str(folder), hub.url]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_second_process_sees_the_job_as_running_elsewhere(hub: HubServer, tmp_path: Path) -> None:
    hub.fault(FIRST, origin="cdn", stall_after=MIB)
    first = alone(tmp_path, hub)
    try:
        assert first.stdout
        while not first.stdout.readline().startswith("downloading"):
            pass
        second = alone(tmp_path, hub)
        told, _ = second.communicate(timeout=20)
        assert told.splitlines()[-1].startswith("downloading True")
    finally:
        first.kill()
        first.wait()
        first.stdout.close()


def test_a_killed_process_loses_almost_nothing(whole_program: None, hub: HubServer, tmp_path: Path) -> None:
    """Kill three processes in a row, each of which resumes over four connections of 3 MB/s."""
    big = noise(24 * MIB, 4)
    hub.add(REPO, {"model.safetensors": big})
    rate = 3_000_000
    hub.fault("model.safetensors", origin="cdn", rate=rate)
    chance = random.Random()
    sent = hub.sent
    for kill in range(3):
        process = alone(tmp_path, hub)
        assert process.stdout
        until(lambda: len(hub.requests(origin="cdn")) > 4 * kill, 20)  # noqa: B023
        time.sleep(chance.uniform(0.1, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    hub.faults.clear()
    process = alone(tmp_path, hub)
    told, _ = process.communicate(timeout=60)
    assert told.splitlines()[-1] == f"done False {len(big)}"
    arrived = tmp_path / "models" / "something" / "model.safetensors"
    judged = subprocess.run(["sha256sum", arrived], capture_output=True, text=True, check=True).stdout.split()[0]
    assert judged == next(iter(hub.repos[REPO].commits[hub.repos[REPO].branches["main"]].values())).sha256
    in_flight = 3 * 4 * (256 << 10) * 4  # what the kernel had taken from the hub and nobody read
    assert hub.sent - sent <= len(big) + 3 * (4 * rate * SPLIT.save_seconds) + in_flight


def test_a_job_fails_if_no_mirror_can_be_reached(program: Program) -> None:
    program.endpoints[:] = ["http://127.0.0.1:9"]
    told = ended_after_start(program.start())
    assert told.state == "failed" and isinstance(told.error, MirrorUnreachable)


def test_the_next_mirror_is_asked_if_the_first_cannot_be_reached(hub: HubServer, program: Program) -> None:
    program.endpoints.insert(0, "http://127.0.0.1:9")
    told = ended_after_start(program.start())
    assert told.state == "done" and content(told.folder) == FILES


def test_a_mirror_whose_cdn_fails_is_waited_for_once(hub: HubServer, program: Program) -> None:
    hub.fault("", origin="cdn", status=503)
    with HubServer() as second:
        second.add(REPO, FILES)
        program.endpoints.append(second.url)
        told = ended_after_start(program.start(SPLIT))
    assert told.state == "done" and content(told.folder) == FILES
    assert len(hub.requests(origin="cdn")) == 1 + SPLIT.retry.waits_with_others


def test_done_listeners_are_called_when_a_model_is_complete(hub: HubServer, program: Program) -> None:
    downloads, heard = program.start(), list[bool]()
    downloads.on_done(lambda: heard.append((program.models / WANTED.target / "config.json").exists()))
    ended_after_start(downloads)
    until(lambda: heard)
    assert heard == [True]
    ended_after_start(downloads, replace(WANTED, files=("nothing",)))
    assert heard == [True]


def test_the_token_is_never_written_or_logged(
    hub: HubServer, program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    hub.token = "hf_very_secret"
    hub.add("private/one", {"model.safetensors": noise(2 * MIB), "x.safetensors": b"x" * 20_000}, private=True)
    hub.fault("x.safetensors", origin="cdn", status=500)
    host = hub.url.removeprefix("http://")
    downloads = program.start(token=AccessToken(hub.token, frozenset({host})))
    told = ended_after_start(downloads, replace(WANTED, repo="private/one"))
    assert told.state == "failed" and told.done >= 2 * MIB
    written = b"".join(path.read_bytes() for path in program.models.rglob("*") if path.is_file())
    assert b"jobs.json" in b"".join(str(each).encode() for each in program.models.rglob("*"))
    for said in (written.decode("latin1"), caplog.text, str(told), repr(told)):
        assert hub.token not in said


def test_a_large_file_takes_no_memory(hub: HubServer, program: Program) -> None:
    size = 256 * MIB
    sparse = program.models.parent / "sparse"
    with sparse.open("wb") as file:
        file.truncate(size)
    hub.add(REPO, {"model.safetensors": sparse})
    before = most = cpu_memory.resident_memory(os.getpid())
    downloads = program.start(TransferOptions())
    downloads.start(WANTED)
    while view(downloads).state not in ("done", "failed"):
        most = max(most, cpu_memory.resident_memory(os.getpid()))
        time.sleep(0.05)
    assert (
        view(downloads).state == "done"
        and (program.models / WANTED.target / "model.safetensors").stat().st_size == size
    )
    assert most - before < 100 * MIB


def test_a_download_started_while_the_same_one_is_being_cancelled_is_a_new_job(
    hub: HubServer, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = hub.fault(FIRST, origin="cdn", stall_after=4 * MIB)
    downloads = program.start()
    execute, jobs = downloads._execute, list[str]()

    def execute_then_start(*run: Any) -> Any:
        outcome = execute(*run)
        if len(jobs) == 1:  # at the end of the first run only
            jobs.append(downloads.start(WANTED))
        return outcome

    monkeypatch.setattr(downloads, "_execute", execute_then_start)
    jobs.append(downloads.start(WANTED))
    until(lambda: view(downloads, jobs[0]).done >= 4 * MIB)
    hub.faults.remove(fault)
    downloads.cancel(jobs[0])
    until(lambda: view(downloads, jobs[0]).state == "cancelled")
    until(lambda: view(downloads, jobs[1]).state == "done", 10)
    assert content(program.models / WANTED.target) == FILES
    assert not (program.models / ".downloads" / jobs[0]).exists()
