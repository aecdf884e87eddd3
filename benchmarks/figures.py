"""How the benchmarks speak: one table each, and a line on whether the floor was reached."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

MB = 1_000_000
QUIET = 0.05
"""Others' share of the processors from which on the figures are worth little."""


@contextlib.contextmanager
def session(title: str) -> Iterator[None]:
    """Says what is measured, on what, and when; in the end, how much of the machine others had meanwhile.

    All processes that belong to the measurement must have ended before the block does.
    """
    print(f"{title}\n{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, {_processor()}")
    began, busy, host, ours = time.monotonic(), _busy_seconds(), _stolen_seconds(), _our_seconds()
    yield
    available = (time.monotonic() - began) * (os.cpu_count() or 1)
    others = max(_busy_seconds() - busy - (_our_seconds() - ours), 0.0) / available
    stolen = (_stolen_seconds() - host) / available
    print(f"Other work took {others:.0%} of the processors meanwhile, {stolen:.0%} the host of this machine.", end="")
    print(" That is too much: the figures mean little." if others > QUIET else "")


def _processor_times() -> list[float]:
    """Seconds that all processors together have spent since the machine was started, as /proc/stat lists them."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    return [int(word) / os.sysconf("SC_CLK_TCK") for word in words]


def _busy_seconds() -> float:
    """Seconds of work by all processors together since the machine was started, for us or stolen by its host."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = _processor_times()
    return user + nice + system + irq + softirq + steal


def _stolen_seconds() -> float:
    """Seconds that the host of a virtual machine has given to others."""
    return _processor_times()[-1]


def _our_seconds() -> float:
    """What this process and those of its descendants that have ended have worked."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Numbers are shown with two decimals, aligned at the right."""
    shown = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in [list(columns), *shown]) for place in range(len(columns))]
    print()
    for row in [list(columns), *shown]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  " + "   ".join(cells))
    print()


def verdict(what: str, measured: str, floor: str, reached: bool) -> None:
    print(f"{what}: {measured}; floor {floor}: {'reaches' if reached else 'MISSES'}")
