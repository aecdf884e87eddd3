"""A lock on a file that other processes respect. It is given back when the descriptor is closed."""

from __future__ import annotations

import os


def wait_for(descriptor: int) -> None:
    """Lock the open file, once nobody else holds it."""
    _lock(descriptor, wait=True)


def taken(descriptor: int) -> bool:
    """Lock the open file unless somebody else holds it; whether it is ours now."""
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
