"""Downloads survive restarts and kills of the program, and two programs share their jobs."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from modules.core.paths import ROOT
from modules.downloads.context import MIB
from modules.downloads.install_files import LOCK
from modules.system import file_lock
from tests.support.download_jobs import FILES, FIRST_SHARD, SPEC, TOTAL, Program, read_files, view, wait_until_ended
from tests.support.downloading import REPO, SPLIT, noise, until
from tests.support.hub_server import HubServer


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
