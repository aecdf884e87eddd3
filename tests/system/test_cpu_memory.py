"""CPU cores and memory available to this process."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from modules.system import cgroups, cpu_memory
from modules.system.cpu_memory import has_amx


def test_there_is_at_least_one_core_and_no_more_cores_than_processors() -> None:
    assert 1 <= cpu_memory.physical_cores() <= cpu_memory.logical_cores() == len(os.sched_getaffinity(0))


def test_a_process_bound_to_one_cpu_has_one_core() -> None:
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from modules.system import cgroups, cpu_memory
print(cpu_memory.logical_cores(), cpu_memory.physical_cores())
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert run.stdout == "1 1\n"


def test_hyperthreads_are_grouped_by_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, siblings in {0: "5", 1: "a", 2: "5", 3: "a", 5: "20"}.items():
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings").write_text(f"{siblings}\n")
    monkeypatch.setattr(cpu_memory, "_CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3, 5, 7})
    assert cpu_memory.cpus_by_core() == [[0, 2], [1, 3], [5], [7]], "a CPU without topology counts as a core"
    assert cpu_memory.physical_cores() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {2, 3})
    assert cpu_memory.cpus_by_core() == [[2], [3]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("flags\t\t: fpu amx_bf16 amx_tile amx_int8\n", True),
        ("model name: amx_int8\nflags : fpu avx2\n", False),
        (None, False),
    ],
    ids=["amx", "without", "unreadable"],
)
def test_amx_is_among_the_flags_of_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, expected: bool
) -> None:
    monkeypatch.setattr(cpu_memory, "_CPU_INFO", tmp_path / "cpuinfo")
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    assert has_amx.__wrapped__() is expected


def test_a_system_that_does_not_tell_the_cores_has_none_to_bind_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cpu_memory.cpus_by_core() == []


def test_the_fast_cores_of_hybrid_processors_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpus = tmp_path / "system" / "cpu"
    cpus.mkdir(parents=True)
    monkeypatch.setattr(cpu_memory, "_CPUS", cpus)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3, 4})
    assert (cpu_memory.cpus_by_core(), cpu_memory.fast_cores()) == ([[0], [1], [2], [3], [4]], 5)
    (tmp_path / "cpu_core").mkdir()  # Intel
    (tmp_path / "cpu_core" / "cpus").write_text("1-2,4\n")
    assert (cpu_memory.cpus_by_core(), cpu_memory.fast_cores()) == ([[1], [2], [4], [0], [3]], 3)
    for cpu, capacity in enumerate((512, 512, 1024, 512, 870)):  # ARM
        (cpus / f"cpu{cpu}").mkdir()
        (cpus / f"cpu{cpu}" / "cpu_capacity").write_text(f"{capacity}\n")
    assert (cpu_memory.cpus_by_core(), cpu_memory.fast_cores()) == ([[2], [4], [0], [1], [3]], 1)


def test_a_quota_limits_the_number_of_threads_and_prevents_binding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_memory, "_CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    for quota, threads in ((0.5, 1), (1.5, 2), (2.0, 2), (3.2, 4)):
        monkeypatch.setattr(cgroups, "cpu_quota", lambda quota=quota: quota)
        assert cpu_memory.logical_cores() == cpu_memory.physical_cores() == cpu_memory.fast_cores() == threads
        assert cpu_memory.bindable_cores() == [[] for _ in range(threads)]
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: 4.0)
    assert not cpu_memory.has_quota()
    assert cpu_memory.bindable_cores() == [[0], [1], [2], [3]]


def test_resident_memory_counts_used_pages() -> None:
    memory_before = cpu_memory.resident_memory()
    allocation = mmap.mmap(-1, 50 << 20)  # not with malloc, which might reuse freed memory
    allocation.write(bytes(len(allocation)))
    assert cpu_memory.resident_memory() - memory_before == pytest.approx(len(allocation), rel=0.1)


def test_the_memory_of_another_process_is_0_once_it_has_ended() -> None:
    program = [sys.executable, "-c", "print('ready', flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu_memory.resident_memory(child.pid) > 1 << 20
        child.communicate(b"\n")
    assert cpu_memory.resident_memory(child.pid) == 0


def test_available_memory_decreases_when_memory_is_used() -> None:
    available_before = cpu_memory.available_memory()
    assert 0 < available_before < cpu_memory.total_memory()
    allocation = bytearray(os.urandom(1 << 20) * 400)
    # Half is enough, because other processes allocate and free memory meanwhile.
    assert available_before - cpu_memory.available_memory() > len(allocation) / 2


def make_cgroup(folder: Path, files: tuple[str, str], limit: str, usage: int, stat: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(files, (limit, str(usage)), strict=True):
        (folder / name).write_text(f"{content}\n")
    (folder / "memory.stat").write_text(stat)


def memory_left(root: Path, own_cgroup: str) -> int:
    """Return the bytes left by the cgroups in `root` to a process whose /proc/self/cgroup contains `own_cgroup`."""
    cgroup_file = root / "own"
    cgroup_file.write_text(own_cgroup)
    return min(cpu_memory._left_by_cgroups(root, cgroup_file))


V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2_FILES = ("memory.max", "memory.current")


def test_the_memory_left_by_a_cgroup_is_its_limit_minus_unreclaimable_usage(tmp_path: Path) -> None:
    make_cgroup(tmp_path / "a" / "b", V2_FILES, "1000", 700, "anon 400\ninactive_file 200\nactive_file 100\n")
    assert memory_left(tmp_path, "0::/a/b\n") == 500
    make_cgroup(tmp_path / "a", V2_FILES, "800", 790, "inactive_file 0\n")  # The parent group leaves less.
    assert memory_left(tmp_path, "0::/a/b\n") == 10
    make_cgroup(tmp_path / "a", V2_FILES, "max", 790, "inactive_file 0\n")
    assert memory_left(tmp_path, "0::/a/b\n") == 500


def test_cgroups_of_version_1_limit_the_memory(tmp_path: Path) -> None:
    stat = "inactive_file 1\ntotal_inactive_file 200\n"
    make_cgroup(tmp_path / "memory" / "a", V1_FILES, "1000", 700, stat)
    assert memory_left(tmp_path, "5:cpu:/\n4:memory:/a\n0::/\n") == 500
    # In a container the path may exist only on the host.
    make_cgroup(tmp_path / "memory", V1_FILES, "1000", 990, stat)
    assert memory_left(tmp_path, "4:memory:/docker/1234\n") == 210


def test_without_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    assert memory_left(tmp_path, "0::/\n") == sys.maxsize
    assert list(cpu_memory._left_by_cgroups(tmp_path, tmp_path / "absent")) == [sys.maxsize]


def test_an_exhausted_limit_leaves_one_byte(tmp_path: Path) -> None:
    make_cgroup(tmp_path, V2_FILES, "1000", 1100, "inactive_file 0\n")
    assert memory_left(tmp_path, "0::/\n") == 1  # 0 would mean unknown.
