"""A child process with limits of time, memory and output: `python -I limited_child.py PROGRAM LIMITS...`.

PROGRAM is a Python file with a function `answer(request, output_bytes)`. A request is one line, and so is its answer,
each with its line break. A limit ends the process; its exit code says which one. This file is run by its path, without
the packages of this project.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import sys
from typing import Any

OUT_OF_MEMORY = 3
OUTPUT_TOO_LARGE = 4
"""Exit codes."""

_PR_SET_PDEATHSIG = 1


def main(program: str, memory_bytes: int, seconds: int, output_bytes: int, parent: int) -> None:
    """Answer requests until stdin ends."""
    answer = runpy.run_path(program)["answer"]
    _limit_memory(memory_bytes)
    _end_with_parent(parent)
    for request in sys.stdin.buffer:
        try:
            with _alarm(seconds):
                line = answer(request, output_bytes)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        if len(line) > output_bytes:
            os._exit(OUTPUT_TOO_LARGE)
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def _limit_memory(size: int) -> None:
    """Make allocations beyond `size` bytes fail, where the system can do so; a crash leaves no core file."""
    if sys.platform == "win32":
        return
    import resource

    for limit, value in ((resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some limits
            resource.setrlimit(limit, (value, value))


def _end_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent ends, even in the middle of a request."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            os._exit(0)


@contextlib.contextmanager
def _alarm(seconds: int) -> Any:
    """End the process after `seconds`. The parent does so as well; this alarm is for a parent that has ended.

    No Python handler is set, since none runs before a long operation of C ends.
    """
    if sys.platform == "win32":
        yield
        return
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
