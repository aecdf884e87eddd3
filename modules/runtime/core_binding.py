"""Let one worker at a time bind its compute threads to the cores of this machine.

The threads of an OpenMP team wait for each other several hundred times per token, in a busy loop. If another program
needs a core, the scheduler may run two of them on one core: then one spends the time slice that the thread it waits for
needs. Bound threads never share a core. Two teams bound to the same cores would, so a second worker stays unbound as
long as the first one lives. When that ends, because its model is unloaded or goes to sleep, the worker that has waited
longest is bound in its stead. Its threads have been started to sleep while they wait for each other, and do so still.

Environment variables (OMP_PROC_BIND, OMP_PLACES) would be simpler, but with them libgomp binds the thread that loads it
to the first core at once. Whatever that thread starts inherits this: threads that load weights, compilers, and the
number of available cores, from which that of compute threads is derived. So the engine binds its threads itself after
the load, in an operation of its own (`binds_threads` in modules/loaders/registry.py).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping

from modules.core.errors import WebUIError
from modules.runtime.worker_process import DECIDED_BY_USER, WorkerProcess
from modules.system import cpu_memory

log = logging.getLogger(__name__)


class CoreBinding:
    """The cores that this process may use, and the worker whose compute threads are bound to them.

    A worker that has ended for whatever reason no longer holds them. `_waiting` are those that were not bound because
    another one was. Any thread may call.
    """

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        cores: Callable[[], list[list[int]]] = cpu_memory.cpus_by_core,
    ) -> None:
        self._environment = environment
        self._cores = cores
        self._lock = threading.Lock()
        self._holder: WorkerProcess | None = None
        self._waiting: list[WorkerProcess] = []

    def bind(self, worker: WorkerProcess) -> bool:
        """Bind the compute threads of `worker` to all cores, which it then holds until it ends.

        Returns False if they stay unbound: another living worker holds the cores, the user has set an environment
        variable, there is only one core, the system does not list them, or the engine declines. In the first case they
        are bound when that worker has ended. Raises the error of the worker if the operation fails.
        """
        cores = self._claim(worker)
        bound = False
        try:
            if cores:
                bound = bool(worker.call("bind_threads", cores=cores))
        finally:
            if not bound:
                self._release(worker)
        if bound:
            worker.call_at_end(self._bind_waiting)
        return bound

    def available(self) -> bool:
        """Whether a worker started now can be bound. If not, its threads must not wait in a busy loop."""
        with self._lock:
            return bool(self._free())

    def _bind_waiting(self) -> None:
        """Bind the first worker that waits and does not decline; the others wait for its end."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for worker in waiting:
            try:
                self.bind(worker)
            except WebUIError as error:  # it has ended, or cannot do it
                log.debug("threads stay unbound: %s", error)

    def _is_held(self) -> bool:
        return self._holder is not None and self._holder.running

    def _free(self) -> list[list[int]]:
        cores = self._cores()
        if self._is_held() or len(cores) < 2 or any(name in self._environment for name in DECIDED_BY_USER):
            return []
        return cores

    def _claim(self, worker: WorkerProcess) -> list[list[int]]:
        with self._lock:
            cores = self._free()
            if cores:
                self._holder = worker
            elif self._is_held():
                self._waiting = [*(one for one in self._waiting if one.running), worker]
        return cores

    def _release(self, worker: WorkerProcess) -> None:
        with self._lock:
            if self._holder is worker:
                self._holder = None
