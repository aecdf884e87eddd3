"""How the benchmarks speak: one table each, and a line on whether the floor was reached."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

MB = 1_000_000


def heading(title: str) -> None:
    """What is measured, on what, and when. A busy machine is told, since it spoils the figures."""
    busy = os.getloadavg()[0]
    print(
        f"{title}\n{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, {_processor()}, load average {busy:.1f}"
    )
    if busy > 0.5:
        print("Other work is going on (or was, within the last minute): expect worse figures than on a quiet machine.")


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
