"""Call a function at a given time."""

from __future__ import annotations

import threading
from collections.abc import Callable

_LONGEST = 86_400.0
"""Seconds. A thread cannot wait for some times that requests may ask for."""


class Alarm:
    """Calls `ring` in a thread of its own, at times of `clock`, a little late or for nothing at worst.

    The lock of its owner guards it.
    """

    def __init__(self, clock: Callable[[], float], ring: Callable[[], None]) -> None:
        self._clock, self._ring = clock, ring
        self._at: float | None = None
        self._timer = threading.Timer(0, ring)

    def set(self, at: float | None) -> None:
        """Let it ring at that time, unless it will earlier; None leaves it as it is."""
        if at is None or (self._at is not None and self._at <= at):
            return
        self._timer.cancel()
        self._at = at
        self._timer = threading.Timer(min(max(at - self._clock(), 0.0), _LONGEST), self._ring)
        self._timer.daemon = True
        self._timer.start()

    def has_rung(self) -> None:
        """Note that it may be set to any time again. To be called by `ring`."""
        self._at = None

    def cancel(self) -> None:
        self._timer.cancel()
        self._at = None
