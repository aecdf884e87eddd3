"""Share the cores of this machine among the workers that compute at the moment.

The threads of an OpenMP team wait for each other several hundred times per token, in a busy loop. If another program
needs a core, the scheduler may run two of them on one core: then one spends the time slice that the thread it waits for
needs. Bound threads never share a core, but two teams bound to the same cores would. So a worker has all cores as long
as it alone computes; while several do, each of them has a part of the cores, and as many threads as it has cores. Cores
change hands whenever a worker begins or ends to compute: the engine applies that between two of its steps, which takes
some microseconds (`benchmarks/decode_busy.py --pair`).

Environment variables (OMP_PROC_BIND, OMP_PLACES) would be simpler, but with them libgomp binds the thread that loads it
to the first core at once. Whatever that thread starts inherits this: threads that load weights, compilers, and the
number of available cores, from which that of compute threads is derived. So the engine binds its threads itself after
the load, in an operation of its own (`binds_threads` in modules/loaders/registry.py).

Where threads cannot be bound (`cpu_memory.bindable_cores`), the workers that compute share the number of threads alone,
and where they run is left to the system.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from modules.core.events import Event
from modules.runtime.worker_process import DECIDED_BY_USER, SHORT_WAITING, WorkerProcess
from modules.system import cpu_memory

Cores = list[list[int]]
"""The logical CPUs of each core; none of a core to which no thread is to be bound."""


class CoreBinding:
    """The cores that this process may use, and the workers whose compute threads are bound to them.

    `_shares` has the cores that each of them was last given, `_known_cores` are all of them. Any thread may call.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, cores: Callable[[], Cores] = cpu_memory.bindable_cores
    ) -> None:
        self._environment = environment
        self._cores = cores
        self._lock = threading.RLock()  # a call that `_share` makes may notice that its worker has just stopped
        self._shares: dict[WorkerProcess, Cores] = {}
        self._known_cores: Cores = []

    def bind(self, worker: WorkerProcess) -> bool:
        """Bind the compute threads of `worker` to cores until it ends: to all of them, unless other workers compute.

        Returns False if they stay unbound: the user has set an environment variable, there is only one core, threads
        cannot be bound, or the engine declines. Raises the error of the worker if the operation fails.
        """
        cores = self._shareable()
        if not cores:
            return False
        bound = bool(worker.call("bind_threads", cores=cores))
        if not bound and all(cores):  # the engine declines
            return False
        with self._lock:
            self._shares[worker] = self._known_cores = cores
        worker.call_at_end(partial(self._forget, worker))
        worker.watch(self._share)
        return bound

    @property
    def waiting(self) -> Mapping[str, str]:
        """The variables of a worker that is to be bound: those of OpenMP's default, which waits in a busy loop for some
        milliseconds, or of a shorter one if it cannot be bound."""
        cores = self._shareable()
        return {} if cores and all(cores) else SHORT_WAITING

    def _shareable(self) -> Cores:
        cores = self._cores()
        decided = any(name in self._environment for name in DECIDED_BY_USER)
        return [] if decided or len(cores) < 2 else cores

    def _forget(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._shares.pop(worker, None)
        self._share()

    def _share(self) -> None:
        """Tell every worker that computes which cores it has, if these have changed.

        Others keep what they have: they get their cores before the call with which they begin to compute.
        """
        with self._lock:
            computing = [worker for worker in self._shares if worker.is_computing]
            if not computing:
                return
            if len(self._shares) > 1:  # asking takes milliseconds where there are many cores
                self._known_cores = self._cores()
            shares = divided(self._known_cores, len(computing))
            for worker, share in zip(computing, shares, strict=True):
                if self._shares[worker] != share:
                    self._shares[worker] = share
                    worker.start("bind_threads", _ignore, cores=share, workers=len(computing))


def divided(cores: Sequence[list[int]], count: int) -> list[Cores]:
    """Return the cores of each of `count` workers: equally fast ones, and if there are more workers than cores, one."""
    if count > len(cores):
        return [[cores[number % len(cores)]] for number in range(count)]
    return [list(cores[number::count]) for number in range(count)]


def _ignore(event: Event) -> None:
    """Receive the end of an operation whose result is not needed: a worker that fails is reported elsewhere."""
