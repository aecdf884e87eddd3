"""A limit on the time of native code that cannot be interrupted, such as a grammar that takes for ever."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
from collections.abc import Iterator

STEP_SECONDS = 30.0
"""Far more than sampling one token takes, whatever the machine and the grammar."""
_EXPIRY = "Timeout ("
"""The beginning of the line that faulthandler writes."""


@contextlib.contextmanager
def time_limit(seconds: float = STEP_SECONDS) -> Iterator[None]:
    """Let the kernel end this process by SIGALRM if the block takes longer; the parent then starts another one.

    No thread of Python's could do that: native code may hold the GIL. On Windows, which has no such timer, a thread of
    faulthandler does, which needs no GIL: it writes the stacks to stderr and exits with 1. Blocks cannot be nested. A
    timer of the caller, such as a test runner's, begins again after the block.
    """
    if not hasattr(signal, "setitimer"):
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        return
    previous = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *previous)


def is_expiry(line: str) -> bool:
    """Return whether a line of a process's stderr says that faulthandler ends it, since a limit was exceeded."""
    return line.startswith(_EXPIRY)
