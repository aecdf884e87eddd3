"""Grant the cores of this machine to one worker at a time, so that it may bind its compute threads to them.

The threads of an OpenMP team wait for each other several hundred times a token, in a busy loop. The scheduler may put
two of them on one core when another program wants the other: then one spins away the time slice that the thread it
waits for would need. Bound threads cannot meet on a core. Two teams bound to the same cores would, so that a second
worker stays unbound for as long as the first one lives.

Environment variables (OMP_PROC_BIND, OMP_PLACES) would be simpler, but with them libgomp binds the thread that loads
it to the first core at once. What that thread starts later inherits this: threads that load weights, compilers, and
the count of available cores, from which the number of compute threads is derived. So the engine binds its threads
itself, after loading, through an operation of its own (`binds_threads` in modules/loaders/registry.py).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

from modules.core.events import Result
from modules.runtime.worker_process import DECIDED_BY_USER, WorkerProcess
from modules.system import cpu_memory


class CoreBinding:
    """The cores that this process may use, and the worker whose compute threads are bound to them.

    A worker that has ended, however it ended, holds them no longer. Any thread may call.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, cores: Callable[[], list[list[int]]] = cpu_memory.cores
    ) -> None:
        self._environment = environment
        self._cores = cores
        self._lock = threading.Lock()
        self._holder: WorkerProcess | None = None

    def bind(self, worker: WorkerProcess) -> bool:
        """Have `worker` bind its compute threads to all cores, and grant it these until it ends.

        Return False if its threads stay unbound: another living worker holds the cores, the user has decided by an
        environment variable, there is only one core, the system does not say which there are, or the engine declines.
        Raises what the worker answers if it fails, like any other call.
        """
        cores = self._claim(worker)
        bound = False
        try:
            if cores:
                answers = worker.events("bind_threads", cores=cores)
                bound = any(bool(event.value) for event in answers if isinstance(event, Result))
        finally:
            if not bound:
                self._release(worker)
        return bound

    def available(self) -> bool:
        """Whether a worker that is started now can be bound. If not, its threads must not wait in a busy loop."""
        with self._lock:
            return bool(self._free())

    def _free(self) -> list[list[int]]:
        held = self._holder is not None and self._holder.running
        cores = self._cores()
        if held or len(cores) < 2 or any(name in self._environment for name in DECIDED_BY_USER):
            return []
        return cores

    def _claim(self, worker: WorkerProcess) -> list[list[int]]:
        with self._lock:
            cores = self._free()
            if cores:
                self._holder = worker
        return cores

    def _release(self, worker: WorkerProcess) -> None:
        with self._lock:
            if self._holder is worker:
                self._holder = None
