"""A disk without enough space pauses a download until there is some."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.downloads.context import MIB
from modules.downloads.errors import DiskFull
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
from tests.support.downloading import REPO, noise, until
from tests.support.hub_server import HubServer


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
