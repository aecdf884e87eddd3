"""A limit on the time of native code that cannot be interrupted, such as a grammar that takes for ever."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

STEP_SECONDS = 30.0
"""Far more than sampling one token takes, whatever the machine and the grammar."""


@contextlib.contextmanager
def time_limit(seconds: float = STEP_SECONDS) -> Iterator[None]:
    """Let the kernel end this process by SIGALRM if the block takes longer; the parent then starts another one.

    No thread could do that: native code may hold the GIL. There is no limit on Windows, which has no such timer.
    Blocks cannot be nested. A timer of the caller, such as a test runner's, begins again after the block.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return
    previous = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *previous)
