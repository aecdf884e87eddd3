"""What this machine is, as seen by a process that may not have all of it."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from modules.system import cpu_memory


def test_there_is_at_least_one_core_and_no_more_cores_than_processors() -> None:
    assert 1 <= cpu_memory.physical_cores() <= cpu_memory.logical_cores() == len(os.sched_getaffinity(0))


def test_a_process_bound_to_one_processor_has_one() -> None:
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from modules.system import cpu_memory
print(cpu_memory.logical_cores(), cpu_memory.physical_cores())
"""
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert told.stdout == "1 1\n"


def test_hyperthreads_are_grouped_by_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, siblings in {0: "5", 1: "a", 2: "5", 3: "a", 5: "20"}.items():
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings").write_text(f"{siblings}\n")
    monkeypatch.setattr(cpu_memory, "_CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3, 5, 7})
    assert cpu_memory.cores() == [[0, 2], [1, 3], [5], [7]], "a CPU without topology is a core of its own"
    assert cpu_memory.physical_cores() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {2, 3})
    assert cpu_memory.cores() == [[2], [3]]


def test_memory_that_is_used_is_counted() -> None:
    before = cpu_memory.resident_memory()
    ballast = mmap.mmap(-1, 50 << 20)  # the C library's own might be memory that it has kept from before
    ballast.write(bytes(len(ballast)))
    assert cpu_memory.resident_memory() - before == pytest.approx(len(ballast), rel=0.1)


def test_the_memory_of_another_process_can_be_asked_for_until_it_ends() -> None:
    program = [sys.executable, "-c", "print('ready', flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_memory.resident_memory(child.pid) > 1 << 20
        child.communicate(b"\n")
    assert cpu_memory.resident_memory(child.pid) == 0


def test_less_memory_is_available_than_there_is_and_less_still_once_some_is_used() -> None:
    before = cpu_memory.available_memory()
    assert 0 < before < cpu_memory.total_memory()
    ballast = bytearray(os.urandom(1 << 20) * 400)
    assert before - cpu_memory.available_memory() > len(ballast) / 2  # others come and go meanwhile


def group(folder: Path, files: tuple[str, str], limit: str, usage: int, stat: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(files, (limit, str(usage)), strict=True):
        (folder / name).write_text(f"{content}\n")
    (folder / "memory.stat").write_text(stat)


def left(top: Path, own: str) -> int:
    """What the groups in `top` leave a process whose /proc/self/cgroup says `own`."""
    told = top / "own"
    told.write_text(own)
    return min(cpu_memory._left_in_groups(top, told))


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


def test_a_container_leaves_its_limit_less_what_is_in_use_and_cannot_be_given_back(tmp_path: Path) -> None:
    group(tmp_path / "a" / "b", V2, "1000", 700, "anon 400\ninactive_file 200\nactive_file 100\n")
    assert left(tmp_path, "0::/a/b\n") == 500
    group(tmp_path / "a", V2, "800", 790, "inactive_file 0\n")  # the group around it is fuller
    assert left(tmp_path, "0::/a/b\n") == 10
    group(tmp_path / "a", V2, "max", 790, "inactive_file 0\n")
    assert left(tmp_path, "0::/a/b\n") == 500


def test_groups_of_the_first_version_are_honoured_too(tmp_path: Path) -> None:
    stat = "inactive_file 1\ntotal_inactive_file 200\n"
    group(tmp_path / "memory" / "a", V1, "1000", 700, stat)
    assert left(tmp_path, "5:cpu:/\n4:memory:/a\n0::/\n") == 500
    group(tmp_path / "memory", V1, "1000", 990, stat)  # in a container the path may be one that only its host has
    assert left(tmp_path, "4:memory:/docker/1234\n") == 210


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert left(tmp_path, "0::/\n") == sys.maxsize
    assert list(cpu_memory._left_in_groups(tmp_path, tmp_path / "absent")) == [sys.maxsize]


def test_a_limit_that_is_used_up_leaves_nothing(tmp_path: Path) -> None:
    group(tmp_path, V2, "1000", 1100, "inactive_file 0\n")
    assert left(tmp_path, "0::/\n") == 1  # not 0, which says that nothing is known


def test_a_mac_tells_its_memory_in_pages() -> None:
    told = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10.
Pages active:                          90000.
Pages inactive:                           20.
Pages speculative:                         3.
Pages throttled:                           0.
Pages wired down:                      80000.
Pages purgeable:                           4.
"""
    assert cpu_memory._free_pages(told) == 37 * 16384
    assert cpu_memory._free_pages("vm_stat: not here") == 0
