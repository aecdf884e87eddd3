"""Quantising leaves no gaps in the heap: in a process of its own, as the setting is the whole process's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modules.core.paths import ROOT

_PROGRAM = """
import contextlib, sys
from modules.system import cpu_memory, malloc
with malloc.return_freed_memory() if sys.argv[1] == "tight" else contextlib.nullcontext():
    del (learn := [b"x" * (8 << 20)])[:]
    blocks, kept = [], []
    for _ in range(20):
        blocks.append(b"x" * (4 << 20))
        kept.append(b"x" * 100_000)
    del blocks[:]
    print(cpu_memory.resident_memory())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's setting")
def test_blocks_that_were_dropped_are_given_back() -> None:
    took = {way: int(_run(way)) for way in ("tight", "usual")}
    assert took["tight"] < took["usual"] - 50_000_000


def _run(way: str) -> str:
    command = [sys.executable, "-c", _PROGRAM, way]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
