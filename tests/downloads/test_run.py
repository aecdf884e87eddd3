"""A run resolves the files of a repository, transfers and checks them, and installs them once all are complete.

The tests use the real client and a hub on localhost.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from modules.core.paths import ROOT
from modules.downloads.context import MIB, DownloadContext, TransferOptions
from modules.downloads.errors import ChecksumMismatch, DigestDiffers, DigestUnlisted, PickleRefused
from modules.downloads.install_files import InstallTarget
from modules.downloads.manager import DownloadManager
from modules.downloads.record import DownloadSpec, JobRecord
from modules.downloads.request import Selection, pin_checksum
from modules.downloads.run import DownloadRun
from modules.hub.access_token import AccessToken
from modules.hub.client import HubClient
from modules.hub.endpoint_url import parse_endpoint
from modules.hub.errors import (
    BadEndpoint,
    FileNotOnHub,
    LinkInTheWay,
    MirrorUnreachable,
    NothingToDownload,
    Stopped,
    UnsafeName,
)
from modules.system import cpu_memory
from tests.support.download_jobs import (
    FILES,
    FIRST_SHARD,
    SECOND_SHARD,
    SPEC,
    TOTAL,
    Program,
    download_to_end,
    read_files,
    view,
    wait_until_ended,
)
from tests.support.downloading import HASTY, REPO, SPLIT, list_repository, noise, until
from tests.support.hub_server import Fault, HubServer


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


def test_an_invalid_endpoint_fails_the_job(program: Program) -> None:
    program.endpoints[:] = []
    downloads = DownloadManager(
        {"model": program.models, "lora": program.loras}, lambda: [HubClient(parse_endpoint("ftp://x"))]
    )
    result = download_to_end(downloads)
    assert result.state == "failed" and isinstance(result.error, BadEndpoint)


def pause_in_second_shard(hub: HubServer, downloads: DownloadManager) -> tuple[str, Fault]:
    """Pause a download that has the first shard and a part of the second one. Return its id, and the fault."""
    fault = hub.fault(SECOND_SHARD, origin="cdn", stall_after=MIB)
    job = downloads.start(SPEC)
    until(lambda: view(downloads).done > 7 * MIB)
    downloads.pause(job)
    wait_until_ended(downloads)
    return job, fault


def test_the_old_commit_can_be_kept_after_the_branch_has_moved(hub: HubServer, program: Program) -> None:
    downloads = program.start()
    job, fault = pause_in_second_shard(hub, downloads)
    old_commit = view(downloads).commit
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
    downloads = program.start()
    job, fault = pause_in_second_shard(hub, downloads)
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
    downloads = program.start()
    job, fault = pause_in_second_shard(hub, downloads)
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
