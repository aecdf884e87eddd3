"""`return_freed_memory` gives freed blocks back to the system.

The test runs in a separate process, because the setting affects the whole process.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from modules.core.paths import ROOT

_PROGRAM = """
import contextlib, sys
from modules.system import cpu_memory, malloc
with malloc.return_freed_memory() if sys.argv[1] == "returned" else contextlib.nullcontext():
    del (large := [b"x" * (8 << 20)])[:]  # Freeing it raises the size from which glibc uses mmap.
    blocks, kept = [], []
    for _ in range(20):
        blocks.append(b"x" * (4 << 20))
        kept.append(b"x" * 100_000)
    del blocks[:]
    print(cpu_memory.resident_memory())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting exists only in glibc")
def test_freed_blocks_are_returned_to_the_system() -> None:
    memory = {mode: int(_resident_memory(mode)) for mode in ("returned", "default")}
    assert memory["returned"] < memory["default"] - 50_000_000


def _resident_memory(mode: str) -> str:
    command = [sys.executable, "-c", _PROGRAM, mode]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
