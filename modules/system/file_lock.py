"""Lock an open file against other processes. Closing the descriptor releases the lock."""

from __future__ import annotations

import os


def acquire(descriptor: int) -> None:
    """Lock the open file; wait while another process holds the lock."""
    _lock(descriptor, wait=True)


def try_acquire(descriptor: int) -> bool:
    """Lock the open file and return True, or return False if another process holds the lock."""
    try:
        _lock(descriptor, wait=False)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _lock(descriptor: int, wait: bool) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
