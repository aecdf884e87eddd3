"""Tell those who watch that something has changed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class Changes:
    """Calls its watchers after each change. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: tuple[Callable[[], None], ...] = ()

    def announce(self) -> None:
        for watcher in self._watchers:
            watcher()

    @contextlib.contextmanager
    def watched_by(self, watcher: Callable[[], None]) -> Iterator[None]:
        """Have `watcher` called within the block, by the thread that changes something.

        It must return at once and take no locks: the thread may hold one. A call may still come just after the block.
        """
        with self._lock:
            self._watchers = (*self._watchers, watcher)
        try:
            yield
        finally:
            with self._lock:
                kept = list(self._watchers)
                kept.remove(watcher)
                self._watchers = tuple(kept)
