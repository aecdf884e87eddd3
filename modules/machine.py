"""What this machine is: its cores and its memory, as the operating system tells them to this process."""

from __future__ import annotations

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")


def logical_cores() -> int:
    """The processors this process may run on (a container or `taskset` may grant fewer than there are)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int:
    """The cores behind those processors: hyper-threads of one core counted once; all of them where it is not told."""
    if not hasattr(os, "sched_getaffinity"):
        return logical_cores()
    cores = {_core_of(cpu) for cpu in os.sched_getaffinity(0)}
    return len(cores)


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


def resident_memory(pid: int | str = "self") -> int:
    """Bytes of memory process `pid` holds at this moment; 0 where the system does not tell or it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
