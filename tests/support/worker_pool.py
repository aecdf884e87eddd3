"""Workers that hold a loaded model, shared by the tests of a session."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modules.core.events import Event, Info
from modules.loaders.registry import Loader
from modules.runtime.worker_process import WorkerProcess

POOLED_PIDS: set[int] = set()
"""The process ids of all workers that a pool holds, and of the processes that are forked for unit tests."""

IDLE_WORKERS = 3
"""Maximum number of unused workers that stay loaded. One with the demo model takes about 0.5 GB."""
Start = Callable[[], WorkerProcess]


@functools.cache  # The pool compares these functions, so equal overlays must give the same one.
def worker_with(overlay: Path | None) -> Callable[[], WorkerProcess]:
    """Return a function that starts a worker with this overlay."""
    return WorkerProcess if overlay is None else functools.partial(WorkerProcess, overlay)


@dataclass
class Pooled:
    """A worker of the pool. Workers of one `kind` are interchangeable; `info` and `events` come from its load."""

    kind: tuple[str, Start]
    worker: WorkerProcess
    info: Info
    events: list[Event]
    users: int = 0


class WorkerPool:
    """Workers by model, loader and options.

    Importing the libraries of an engine takes up to 10 s of CPU time, loading the demo model less than 1 s. Therefore
    an unused worker loads the next requested model if the engine is the same. The least recently used are closed.

    Changes that a test makes to a worker persist: a test that applies LoRAs, kills the worker or fills its cache on
    purpose must restore it or use a separate worker.
    """

    def __init__(self, load: Callable[..., tuple[Info, list[Event]]]) -> None:
        self._load = load
        self._pooled: dict[object, Pooled] = {}  # the most recently used last
        self._reloadable: WorkerProcess | None = None

    @contextlib.contextmanager
    def lease(self, path: Path, loader: Loader, start: Start = WorkerProcess, **options: object) -> Iterator[Pooled]:
        """Yield a worker started by `start` with `path` loaded; options not given have their defaults."""
        key = (path, loader.name, start, tuple(sorted(options.items())))
        pooled = self._pooled.pop(key, None)
        if pooled is None or pooled.worker.death is not None:
            kind = (loader.engine, start)
            worker = self._idle(kind) or start()
            POOLED_PIDS.add(worker.pid)
            try:
                pooled = Pooled(kind, worker, *self._load(worker, path, loader, **options))
            except BaseException:
                worker.close()
                raise
        self._pooled[key] = pooled
        pooled.users += 1
        try:
            yield pooled
        finally:
            pooled.users -= 1
            self._close_idle(IDLE_WORKERS)

    def _idle(self, kind: tuple[str, Start]) -> WorkerProcess | None:
        """Remove an unused worker of this kind from the pool, if there is one, and return it."""
        for key, pooled in self._pooled.items():
            if pooled.kind == kind and not pooled.users and pooled.worker.death is None:
                return self._pooled.pop(key).worker
        return None

    def reloadable(self) -> WorkerProcess:
        """Return a worker for tests that load models themselves. It still holds the model of the previous test."""
        if self._reloadable is None or self._reloadable.death is not None:
            self._reloadable = WorkerProcess()
            POOLED_PIDS.add(self._reloadable.pid)
        return self._reloadable

    def close(self) -> None:
        self._close_idle(0)
        if self._reloadable is not None:
            self._reloadable.close()

    def _close_idle(self, keep: int) -> None:
        idle = [key for key, pooled in self._pooled.items() if not pooled.users]
        for key in idle[: max(len(idle) - keep, 0)]:
            self._pooled.pop(key).worker.close()
