"""CPU cores and main memory that are available to this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_CGROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # of v2, of v1


def logical_cores() -> int:
    """Return the number of CPUs this process may use, which a container or `taskset` may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int:
    """Return the number of cores behind these CPUs, or of CPUs where the system does not tell."""
    return len(cpus_by_core()) or logical_cores()


def cpus_by_core() -> list[list[int]]:
    """Return the CPUs this process may use, grouped by physical core; empty where the system does not tell.

    The calling thread's affinity counts, so call it from a thread that is not bound to a core itself.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores: dict[str, list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        cores.setdefault(_core_of(cpu), []).append(cpu)
    return list(cores.values())


def _core_of(cpu: int) -> str:
    try:
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings").read_text()
    except OSError:
        return str(cpu)


def total_memory() -> int:
    """Return the bytes of main memory of this machine."""
    import psutil

    return int(psutil.virtual_memory().total)


def available_memory() -> int:
    """Return the bytes of main memory that can be allocated without swapping; the file cache counts as available.

    In a container, at most what its memory limit leaves.
    """
    import psutil

    return min(int(psutil.virtual_memory().available), *_left_by_cgroups(_CGROUPS, _OWN_CGROUPS))


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
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            base = root / controllers
            group = base / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(base):  # in a container, `path` may be the host's; its own is then the base
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
