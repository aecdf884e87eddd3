"""CPU cores and main memory that are available to this process."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from modules.system import cgroups

_CPUS = Path("/sys/devices/system/cpu")
_CPU_INFO = Path("/proc/cpuinfo")
_CGROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # of v2, of v1


def logical_cores() -> int:
    """Return the number of CPUs this process may use, which a container or `taskset` may limit.

    A quota of 1.5 CPUs counts as 2: more threads would only wait for the next period.
    """
    return max(math.ceil(cgroups.cpu_quota()), 1) if has_quota() else _allowed_cpus()


def has_quota() -> bool:
    """Whether a container limits the CPU time to less than that of the CPUs this process may run on."""
    return cgroups.cpu_quota() < _allowed_cpus()


def _allowed_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_cores() -> int:
    """Return the number of cores behind these CPUs, or of CPUs where the system does not tell."""
    return min(len(cpus_by_core()) or sys.maxsize, logical_cores())


def fast_cores() -> int:
    """Return how many of the physical cores are of the fastest kind: all, except on hybrid processors."""
    speeds = [_speed_of(core[0]) for core in cpus_by_core()]
    return min(speeds.count(max(speeds)) if speeds else sys.maxsize, physical_cores())


def bindable_cores() -> list[list[int]]:
    """Return `cpus_by_core`, or as many empty lists where threads should not be bound to CPUs.

    That is so where the system does not tell (macOS has no such binding, and on Windows ours is not made), and under a
    quota: other containers with one would be bound to the same CPUs, while others are free.
    """
    cores = cpus_by_core()
    return [[] for _ in range(physical_cores())] if has_quota() or not cores else cores


def cpus_by_core() -> list[list[int]]:
    """Return the CPUs this process may use, grouped by physical core; empty where the system does not tell.

    On hybrid processors, the fastest cores come first. The calling thread's affinity counts, so call it from a thread
    that is not bound to a core itself.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores: dict[str, list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        cores.setdefault(_core_of(cpu), []).append(cpu)
    return sorted(cores.values(), key=lambda core: -_speed_of(core[0]))


def _core_of(cpu: int) -> str:
    try:
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings").read_text()
    except OSError:
        return str(cpu)


def _speed_of(cpu: int) -> int:
    """Return a number that is larger for CPUs of a faster kind, and equal for all of a processor that is not hybrid."""
    try:
        return int((_CPUS / f"cpu{cpu}" / "cpu_capacity").read_text())  # ARM
    except (OSError, ValueError):
        pass
    try:
        return int(cpu in _cpu_list((_CPUS.parents[1] / "cpu_core" / "cpus").read_text()))  # Intel
    except (OSError, ValueError):
        return 0


def _cpu_list(text: str) -> set[int]:
    """Return the CPUs in a list of the kernel, such as "0-3,8"."""
    ends = [part.split("-") for part in text.strip().split(",")]
    return {cpu for numbers in ends for cpu in range(int(numbers[0]), int(numbers[-1]) + 1)}


@functools.cache
def has_amx() -> bool:
    """Whether the processor multiplies matrices of bytes (Intel's AMX, Linux only)."""
    return "amx_int8" in features().split()


def features() -> str:
    """Return the line of /proc/cpuinfo with the features of the CPU; elsewhere the name of the processor."""
    with contextlib.suppress(OSError):
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()


def total_memory() -> int:
    """Return the bytes of main memory of this machine."""
    import psutil

    return int(psutil.virtual_memory().total)


def available_memory() -> int:
    """Return the bytes of main memory that can be allocated without swapping; the file cache counts as available.

    In a container, at most what its memory limit leaves.
    """
    import psutil

    return min(int(psutil.virtual_memory().available), *_left_by_cgroups(cgroups.ROOT, cgroups.OWN))


def resident_memory(pid: int | None = None) -> int:
    """Return the bytes of memory that process `pid`, or this one, holds; 0 if it has ended."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def peak_memory(pid: int) -> int:
    """Return the most bytes of memory that process `pid` has held so far; 0 if it has ended.

    Where the system does not tell, it is what the process holds now.
    """
    import psutil

    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except OSError:  # it has ended, or this is not Linux
        pass
    try:
        usage = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(getattr(usage, "peak_wset", usage.rss))


def _left_by_cgroups(root: Path, own: Path) -> Iterator[int]:
    """Yield the bytes that every control group of this process leaves, from its own up to `root`; first no limit."""
    yield sys.maxsize
    for folder in cgroups.own_folders("memory", root, own):
        yield from _left_by_cgroup(folder)


def _left_by_cgroup(folder: Path) -> Iterator[int]:
    for limit_file, usage_file in _CGROUP_FILES:
        try:
            limit, usage = int((folder / limit_file).read_text()), int((folder / usage_file).read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
            statistics = dict(line.split(" ", 1) for line in lines)
        except (OSError, ValueError):  # another version's files, or the limit "max"
            continue
        cached = int(statistics.get("total_inactive_file") or statistics.get("inactive_file") or 0)  # reclaimable
        yield max(limit - max(usage - cached, 0), 1)  # 0 would mean unknown
