"""A queue of measurements in this process. They take turns with other work; the last that have ended are remembered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from modules.core.errors import WebUIError, Words
from modules.runtime.turns import Turn, Turns

log = logging.getLogger(__name__)

MAX_QUEUED = 20
MAX_KEPT = 20
"""Runs that have ended and whose states are kept."""
_END_SECONDS = 5.0

State = TypeVar("State", covariant=True)


class QueuedRun(Protocol[State]):
    """A run. `ended` is set at its end, `state` is a snapshot."""

    id: str
    ended: threading.Event

    @property
    def state(self) -> State: ...

    def run(self) -> None:
        """Carry out the run; its errors are in its state."""

    def stop(self) -> None:
        """End the run early, or before it begins."""


S = TypeVar("S")


class RunQueue(Generic[S]):
    """Starts, stops and remembers runs with states of the type S. Any thread may call.

    `not_found` makes the error for an unknown id, `too_many` the one for a full queue, from the number of runs in it.
    """

    def __init__(
        self,
        name: str,
        turns: Turns,
        not_found: Callable[[str], WebUIError],
        too_many: Callable[[int], WebUIError],
    ) -> None:
        self._turns_of_all = turns
        self._not_found, self._too_many = not_found, too_many
        self._lock = threading.Lock()  # guards the runs
        self._runs: dict[str, QueuedRun[S]] = {}
        self._turns: dict[str, Turn] = {}
        self._pool = ThreadPoolExecutor(1, name)

    def _queue(self, run: QueuedRun[S], work: Words) -> str:
        """Queue a run, which `work` names, and return its id. Raises the error of `too_many`."""
        with self._lock:
            if (waiting := sum(not other.ended.is_set() for other in self._runs.values())) > MAX_QUEUED:
                raise self._too_many(waiting)
            self._runs[run.id] = run
            self._forget_old()
            turn = self._turns[run.id] = self._turns_of_all.queue(work)
            self._pool.submit(_run, run, turn).add_done_callback(_log_defect)
        return run.id

    @property
    def state(self) -> tuple[S, ...]:
        """Snapshots of all runs, the newest last."""
        with self._lock:
            return tuple(run.state for run in self._runs.values())

    def find(self, id: str) -> S:
        """Return the snapshot of a run. Raises the error of `not_found`."""
        return self._find(id).state

    def stop(self, id: str) -> None:
        """Stop a run, or take it out of the queue. Does nothing to one that has ended. Raises as `find` does."""
        self._stop(self._find(id))

    def _stop(self, run: QueuedRun[S]) -> None:
        run.stop()
        turn = self._turns.get(run.id)
        if turn is not None and run.ended.is_set():  # it has not begun: those behind it move up
            turn.end()

    def waiting_for(self, id: str) -> Words | None:
        """Say in a sentence what has to end before a run begins; None if it has begun, or is not known (any more)."""
        turn = self._turns.get(id)
        return turn.waiting_for if turn is not None else None

    def wait(self, id: str, seconds: float | None = None) -> bool:
        """Wait for the end of a run; return False after so many seconds. Raises as `find` does."""
        return self._find(id).ended.wait(seconds)

    def close(self) -> None:
        """Stop all runs."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            self._stop(run)
        self._pool.shutdown(wait=False)
        for run in runs:
            run.ended.wait(_END_SECONDS)

    def _find(self, id: str) -> QueuedRun[S]:
        with self._lock:
            if id not in self._runs:
                raise self._not_found(id)
            return self._runs[id]

    def _forget_old(self) -> None:
        ended = [id for id, run in self._runs.items() if run.ended.is_set()]
        for id in ended[: max(len(ended) - MAX_KEPT, 0)]:
            del self._runs[id], self._turns[id]


def _run(run: QueuedRun[S], turn: Turn) -> None:
    try:
        if turn.wait():
            run.run()
    finally:
        turn.end()


def _log_defect(work: Future[None]) -> None:
    if error := work.exception():
        log.error("a run broke", exc_info=error)
