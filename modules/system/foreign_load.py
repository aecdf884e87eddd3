"""How much of the processors other programs use while something is measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from modules.system import cpu_memory


class ForeignLoad:
    """Counts from its creation on. The functions return seconds since some fixed moment; tests replace them."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        busy: Callable[[], float] | None = None,
        used_by: Callable[[int], float] | None = None,
    ) -> None:
        self._clock, self._busy, self._used_by = clock, busy or busy_seconds, used_by or process_seconds
        self._began, self._busy_before = self._clock(), self._busy()
        self._own_before = self._used_by(os.getpid())

    def share(self, children: Iterable[int]) -> float:
        """Return the share of the processors' time, from 0 to 1, that others than this process and `children` used.

        The children were started since the counting began.
        """
        own = self._used_by(os.getpid()) - self._own_before + sum(map(self._used_by, children))
        available = (self._clock() - self._began) * cpu_memory.logical_cores()
        foreign = self._busy() - self._busy_before - own
        return min(max(foreign / available, 0.0), 1.0) if available > 0 else 0.0


def busy_seconds() -> float:
    """Return the seconds since start in which the processors that this process may use were busy, added up."""
    import psutil

    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    times = psutil.cpu_times(percpu=True)
    counted = [time for number, time in enumerate(times) if usable is None or number in usable]
    idle = ("idle", "iowait", "guest", "guest_nice")  # the times of guests are part of user and nice
    return sum(sum(seconds for name, seconds in one._asdict().items() if name not in idle) for one in counted)


def process_seconds(pid: int) -> float:
    """Return the processor seconds of a process, with those of its children that have ended; 0 if it has ended."""
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + getattr(times, "children_user", 0) + getattr(times, "children_system", 0))
