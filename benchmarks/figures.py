"""Output of the benchmarks: the machine and its load, tables, and whether a result is within its limit."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

MB = 1_000_000
MAX_OTHER_LOAD = 0.05
"""Share of the processors used by other programs above which results are unreliable."""


@contextlib.contextmanager
def session(title: str) -> Iterator[None]:
    """Print a title, the time and the machine; at the end, the share of the processors that other programs used.

    All processes that belong to the measurement must have ended before the block does.
    """
    print(f"{title}\n{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, {_processor()}")
    began, busy_before, stolen_before = time.monotonic(), _busy_seconds(), _stolen_seconds()
    ours_before = _our_seconds()
    yield
    available = (time.monotonic() - began) * (os.cpu_count() or 1)
    others = max(_busy_seconds() - busy_before - (_our_seconds() - ours_before), 0.0) / available
    stolen = (_stolen_seconds() - stolen_before) / available
    print(f"Processor time used by other programs: {others:.0%}, of which {stolen:.0%} by the host of this machine.")
    if others > MAX_OTHER_LOAD:
        print("That is too much: these results are unreliable.")


def _processor_times() -> list[float]:
    """Return the seconds of all processors together since boot, in the order of the columns of /proc/stat."""
    columns = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    return [int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in columns]


def _busy_seconds() -> float:
    """Return the non-idle seconds of all processors together since boot, including those stolen by the host."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = _processor_times()
    return user + nice + system + irq + softirq + steal


def _stolen_seconds() -> float:
    """Return the seconds in which the host of a virtual machine ran something else."""
    return _processor_times()[-1]


def _our_seconds() -> float:
    """Return the processor seconds of this process and of its descendants that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print an aligned table; floats have two decimals."""
    formatted = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in [list(columns), *formatted]) for index in range(len(columns))]
    print()
    for row in [list(columns), *formatted]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  " + "   ".join(cells))
    print()


def verdict(name: str, measured: str, limit: str, passed: bool) -> None:
    print(f"{name}: {measured}; limit: {limit}; {'passed' if passed else 'FAILED'}")
