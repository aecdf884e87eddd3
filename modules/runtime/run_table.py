"""The runs that let models write into stored texts: what is known of those under way, and how they end together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

CLOSE_SECONDS = 1.5
"""Longest wait for all runs when the program ends."""


class WritingRun(Protocol):
    """A run. `ended` is set once all that it has written is saved."""

    ended: threading.Event

    def stop(self) -> None:
        """Stop writing; what is written so far stays."""


S = TypeVar("S")
R = TypeVar("R", bound=WritingRun)


class RunTable(Generic[S, R]):
    """The runs under way, by the store and the id of what they write into. Any thread may call.

    `_lock` guards the fields, and those of subclasses. A key in `_starting` is that of a run about to begin.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[tuple[S, str], R] = {}
        self._starting: set[tuple[S, str]] = set()
        self._listeners: set[Callable[[S, str, bool], None]] = set()

    def _is_busy(self, store: S, id: str) -> bool:
        """Whether a run is writing there, or about to. To be called with the lock."""
        return (store, id) in self._runs or (store, id) in self._starting

    def count(self) -> int:
        """Return the number of runs under way."""
        with self._lock:
            return len(self._runs)

    def stop(self, store: S, id: str) -> None:
        """Stop a run; what it has written stays."""
        with self._lock:
            run = self._runs.get((store, id))
        if run is not None:
            run.stop()

    def close(self) -> None:
        """Stop all runs and wait a moment until they are saved."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.stop()
        deadline = time.monotonic() + CLOSE_SECONDS
        for run in runs:
            run.ended.wait(max(0.0, deadline - time.monotonic()))

    def listen(self, listener: Callable[[S, str, bool], None]) -> Callable[[], None]:
        """Call `listener` whenever a run has made progress, in any thread. Return a function that ends this.

        It gets the store, the id, and whether the run has just begun or ended. It must be quick: it is called for every
        token.
        """
        with self._lock:
            self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def _notify(self, store: S, id: str, begun_or_ended: bool = False) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(store, id, begun_or_ended)
