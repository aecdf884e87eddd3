"""Measured seconds of decoding batches by their size, to tell whether draft tokens would pay."""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable

ASSUMED_SHARE = 0.3
"""A further token costs this share of a batch of one token, beyond the sizes that are measured."""
SAMPLES = 15
PACE_SAMPLES = 5
KNOWN_SAMPLES = 3
"""Measurements of a size after which it takes part in telling the pace."""
FRESH_STEPS = 256
"""Batches for which a measurement holds. After that a smaller guess is preferred, so that the size is tried again."""


def batch_clock(offloaded: bool) -> Callable[[], float]:
    """Return the clock, in seconds, by which batches are to be compared.

    Without GPUs it counts the processor time of the thread that decodes: time that other programs take says nothing
    about a batch, but hits larger ones more often. Windows counts that in steps of 16 ms.
    """
    return time.perf_counter if offloaded or os.name == "nt" else time.thread_time


class BatchCosts:
    """The cost of batches of each size, in a unit of its own.

    Longer contexts and busy processors slow all sizes down, also those that have not been measured since. The pace, in
    seconds for the unit, follows that within a few batches. Sizes are compared by the median of what they took at the
    pace of the moment.
    """

    def __init__(self) -> None:
        self._paces: deque[float] = deque(maxlen=PACE_SAMPLES)
        self._samples: dict[int, deque[float]] = {}
        self._measured_at: dict[int, int] = {}
        self._batches = 0

    def record(self, size: int, seconds: float) -> None:
        """Take up the measured time of one batch of `size` tokens."""
        samples = self._samples.setdefault(size, deque(maxlen=SAMPLES))
        if len(samples) >= KNOWN_SAMPLES or not self._paces:
            self._paces.append(seconds / self.estimate(size))
        samples.append(seconds / statistics.median(self._paces))
        self._batches += 1
        self._measured_at[size] = self._batches

    def estimate(self, size: int) -> float:
        """Return what a batch of `size` tokens costs, to be compared with that of other sizes."""
        samples = self._samples.get(size)
        if not samples:
            return self._interpolate(size)
        measured = statistics.median(samples)
        is_fresh = self._batches - self._measured_at[size] < FRESH_STEPS
        return measured if is_fresh else min(measured, self._interpolate(size))

    def seconds(self, size: int) -> float:
        """Return the seconds that a batch of `size` tokens takes at the present pace; `estimate` before any batch."""
        return self.estimate(size) * (statistics.median(self._paces) if self._paces else 1.0)

    def is_known(self, size: int) -> bool:
        """Tell whether the time of batches of `size` tokens was measured."""
        return len(self._samples.get(size, ())) >= KNOWN_SAMPLES

    def _interpolate(self, size: int) -> float:
        """Return the cost between the sizes measured next to `size`; of larger ones, the assumed share a token more.

        With AMX, two tokens cost twice as much as one, and each further one an eighth: a share of what two cost would
        keep longer drafts from being tried.
        """
        smaller = max((other for other in self._measured_at if other < size), default=0)
        larger = min((other for other in self._measured_at if other > size), default=0)
        low, high = (statistics.median(self._samples[other]) if other else 0.0 for other in (smaller, larger))
        if smaller and larger:
            return low + (high - low) * (size - smaller) / (larger - smaller)
        if smaller:
            return low + _assumed(size) - _assumed(smaller)
        return high * _assumed(size) / _assumed(larger) if larger else _assumed(size)


def _assumed(size: int) -> float:
    return 1 + ASSUMED_SHARE * (size - 1)
