"""List what lies in a folder without waiting for slow disks: a scan goes on in the background, and what it has found
so far is shown."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

LIST_SECONDS = 0.7
"""How long a list for a page or an API client waits for the end of a scan."""
FIND_SECONDS = 10.0
"""How long something without its whole name is looked for, and how long a list waits for its first item."""


class Found(Protocol):
    """Something that a scan finds: by its name the same in every scan, and gone once its path is."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path: ...


T = TypeVar("T", bound=Found)


class BackgroundScan(Generic[T]):
    """Runs scans in threads of their own: one to the end, and while that takes long, short ones for what is new.

    `find` yields what there is, the most accessible first. `complete` turns all of it into the list, and may take long
    as well.
    """

    def __init__(self, find: Callable[[], Iterator[T]], complete: Callable[[list[T]], list[T]]) -> None:
        self._find, self._complete = find, complete
        self._lock = threading.Lock()  # guards the fields below; held for moments only
        self._running: _Scan[T] | None = None
        self._glance: _Scan[T] | None = None  # a second scan, beside one that takes long
        self._last: list[T] = []  # of the last scan that has ended

    def items(self, seconds: float | None = None) -> list[T]:
        """Scan and return what was found; after `seconds`, what is known so far. None waits for the end of the scan.

        An empty list would say that there is nothing, so the first item is waited for longer, except with 0 seconds.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            scan, is_new = self._begin(seconds is not None)
            ended = scan.ended.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if not ended:
                known = self._known_so_far(scan)
                if not known and seconds:
                    scan.has_news.wait(FIND_SECONDS)
                    known = self._known_so_far(scan)
                return known
            if is_new and not scan.completed:
                raise RuntimeError("the scan failed; its traceback has been printed")
            if is_new:  # it began after this call, so that it has seen everything that there was
                return list(scan.result)

    @property
    def is_running(self) -> bool:
        """Whether a scan goes on, so that `items` may have returned only some of what there is."""
        with self._lock:
            return self._running is not None and not self._running.ended.is_set()

    def _begin(self, may_glance: bool) -> tuple[_Scan[T], bool]:
        """Return a scan to wait for, and whether it began just now."""
        with self._lock:
            if self._running is None or self._running.ended.is_set():
                self._running = _Scan(self._run)
                return self._running, True
            is_slow = time.monotonic() - self._running.began > LIST_SECONDS
            if not (may_glance and is_slow) or (self._glance is not None and not self._glance.ended.is_set()):
                return self._running, False
            self._glance = _Scan(self._look)
            return self._glance, True

    def _run(self, scan: _Scan[T]) -> None:
        for item in self._find():
            scan.add(item)
        scan.result = self._complete(list(scan.found))
        with self._lock:
            self._last = scan.result

    def _look(self, scan: _Scan[T]) -> None:
        """Find what there is until nobody waits any longer."""
        for item in self._find():
            scan.add(item)
            if time.monotonic() - scan.began > LIST_SECONDS:
                break
        scan.result = self._known_so_far(scan)

    def _known_so_far(self, scan: _Scan[T]) -> list[T]:
        """Return what `scan`, the long one and the last one have found, if it is still there."""
        with self._lock:
            older = [*(self._running.found if self._running else ()), *self._last]
        known: dict[str, T] = {}
        for item in [*scan.found, *older]:
            if item.name not in known and os.path.lexists(item.path):
                known[item.name] = item
        return list(known.values())


class _Scan(Generic[T]):
    """One scan in a thread. `found` grows until `ended` is set; then there is a `result` if it is `completed`."""

    def __init__(self, run: Callable[[_Scan[T]], None]) -> None:
        self.found: list[T] = []
        self.result: list[T] = []
        self.completed = False
        self.began = time.monotonic()
        self.has_news = threading.Event()  # set once there is an item, or there will be none
        self.ended = threading.Event()
        self._run = run
        threading.Thread(target=self._work, name="scan", daemon=True).start()

    def add(self, item: T) -> None:
        self.found.append(item)
        self.has_news.set()

    def _work(self) -> None:
        try:
            self._run(self)
            self.completed = True
        finally:
            self.ended.set()
            self.has_news.set()
