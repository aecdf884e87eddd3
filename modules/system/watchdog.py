"""Act on operations that take too long, by one thread for all of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(eq=False)
class Watched:
    """An operation under way: what is done when it takes too long, and when that is. `timed_out` once it was done."""

    act: Callable[[], None]
    deadline: float
    timed_out: bool = False


class Watchdog:
    """Watch operations; any thread may call.

    A `threading.Timer` starts a thread for each operation, which costs a busy server more than a short operation does.
    """

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0  # when the thread looks next, 0 once it ends

    @contextlib.contextmanager
    def watch(self, act: Callable[[], None], seconds: float) -> Iterator[Watched]:
        """Call `act` if the block takes longer than `seconds`, once, in the watchdog's thread."""
        watched = Watched(act, time.monotonic() + seconds)
        with self._changed:
            self._watched.add(watched)
            if not self._wakes_at or self._thread is None or not self._thread.is_alive():  # a fork has no threads
                self._wakes_at = watched.deadline
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            elif watched.deadline < self._wakes_at:
                self._changed.notify()
        try:
            yield watched
        finally:
            with self._changed:
                self._watched.discard(watched)

    def _run(self) -> None:
        """Act on what is late until nothing is watched."""
        with self._changed:
            while self._watched:
                now = time.monotonic()
                for watched in [one for one in self._watched if one.deadline <= now]:
                    self._watched.discard(watched)
                    watched.timed_out = True
                    watched.act()
                self._wakes_at = min((one.deadline for one in self._watched), default=now)
                self._changed.wait(self._wakes_at - now)
            self._wakes_at = 0.0
