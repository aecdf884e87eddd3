"""What this machine is: its cores and its memory, as the operating system tells them to this process."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_MEMORY_INFO = Path("/proc/meminfo")
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_GROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # of v2, of v1
_MAC_TIMEOUT = 5.0  # seconds


def logical_cores() -> int:
    """The processors this process may run on (a container or `taskset` may grant fewer than there are)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int:
    """The cores behind those processors: hyper-threads of one core counted once; all of them where it is not told."""
    return len(cores()) or logical_cores()


def cores() -> list[list[int]]:
    """The logical CPUs that this process may use, grouped by physical core; empty if the system does not say.

    The calling thread's affinity counts, so call it from a thread that has not been bound itself.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    grouped: dict[str, list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        grouped.setdefault(_core_of(cpu), []).append(cpu)
    return list(grouped.values())


def _core_of(cpu: int) -> str:
    try:
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings").read_text()
    except OSError:
        return str(cpu)


def total_memory() -> int:
    """Bytes of main memory this machine has; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def available_memory() -> int:
    """Bytes of main memory that can still be taken without pushing anything out to disk, the files' cache included.

    In a container, no more than its limits leave. 0 where the system does not tell.
    """
    if sys.platform == "win32":
        return _available_on_windows()
    if sys.platform == "darwin":
        return _available_on_mac()
    return min(_available_on_linux(), *_left_in_groups(_GROUPS, _OWN_GROUPS))


def _available_on_linux(info: Path = _MEMORY_INFO) -> int:
    try:
        kilobytes = re.search(r"^MemAvailable: +(\d+) kB$", info.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(kilobytes[1]) * 1024 if kilobytes else 0


def _left_in_groups(top: Path, own: Path) -> Iterator[int]:
    """Bytes that each control group this process is in still grants, from its own one up to `top`; first no limit."""
    yield sys.maxsize
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            base = top / controllers
            group = base / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(base):  # in a container, `path` may be the host's; its own is then the base
                    yield from _left_in_group(folder)


def _left_in_group(folder: Path) -> Iterator[int]:
    for limit, usage in _GROUP_FILES:
        try:
            granted, used = int((folder / limit).read_text()), int((folder / usage).read_text())
            facts = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # not of this version, or "max"
            continue
        cached = int(facts.get("total_inactive_file") or facts.get("inactive_file") or 0)  # given back when asked for
        yield max(granted - max(used - cached, 0), 1)  # 0 would mean that nothing is known


def _available_on_windows() -> int:
    if sys.platform != "win32":
        return 0
    fields: list[tuple[str, type]] = [("Size", ctypes.c_uint32), ("Load", ctypes.c_uint32)]
    fields += [(name, ctypes.c_uint64) for name in ("Total", "Avail", "TotalPage", "AvailPage", "TotalOwn", "AvailOwn")]
    status = type("Status", (ctypes.Structure,), {"_fields_": [*fields, ("Extended", ctypes.c_uint64)]})()
    status.Size = ctypes.sizeof(status)
    return int(status.Avail) if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else 0


def _available_on_mac() -> int:
    try:
        told = subprocess.run(["vm_stat"], capture_output=True, text=True, timeout=_MAC_TIMEOUT, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return _free_pages(told)


def _free_pages(told: str) -> int:
    """Bytes, from the words of `vm_stat`. Its inactive pages count: macOS keeps few free ones."""
    size = re.search(r"page size of (\d+) bytes", told)
    pages = re.findall(r"^Pages (?:free|inactive|speculative|purgeable): +(\d+)\.$", told, re.MULTILINE)
    return int(size[1]) * sum(map(int, pages)) if size else 0


def resident_memory(pid: int | str = "self") -> int:
    """Bytes of memory process `pid` holds at this moment; 0 where the system does not tell or it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
