"""How patient a download is: what is waited for how long, how often, and when the next mirror takes over."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from modules.download_errors import DownloadError, RateLimited

MIB = 1 << 20


@dataclass(frozen=True)
class Pace:
    """Seconds and bytes. `waits` are what is waited before the first, second, … new try, give or take `spread`; if the
    last one fails, too, the mirror is given up. A try that brings `progress` bytes makes up for all before it. A
    connection that brings less than `slow` bytes a second for `slow_seconds` is made anew.

    Files from `split_from` on come over up to `connections`, each with `least_segment` at least. What is there is
    written down every `save_seconds`, and forced to the disk every `sync_seconds`.
    """

    waits: tuple[float, ...] = (1, 2, 4, 8, 16, 30)
    spread: float = 0.5
    progress: int = 64 << 10
    slow: int = 1 << 10
    slow_seconds: float = 60
    save_seconds: float = 0.5
    sync_seconds: float = 5
    connections: int = 4
    split_from: int = 64 * MIB
    least_segment: int = 16 * MIB


@dataclass(frozen=True)
class Waiting:
    """It is tried again at `until`, of `time.monotonic`, for the `attempt`-th time of `attempts`."""

    error: DownloadError
    until: float
    attempt: int
    attempts: int


class Tries:
    """What is tried at one mirror after the other. `mirror` is the number of the one whose turn it is."""

    def __init__(self, pace: Pace, mirrors: int) -> None:
        self._pace, self._mirrors = pace, mirrors
        self.mirror = 0
        self._barren = 0
        self._lasting: DownloadError | None = None

    def failed(self, error: DownloadError, progress: int = 0) -> Waiting | None:
        """What to wait for before the next try, after one that brought `progress` bytes; None: the next mirror's turn.

        Raises `error`, or an earlier one that says more, if no mirror is left.
        """
        if progress >= self._pace.progress:
            self._barren = 0
        self._barren += 1
        if error.passing and self._barren <= len(self._pace.waits):
            return self._waiting(error)
        if not error.passing:
            self._lasting = self._lasting or error
        self.mirror, self._barren = self.mirror + 1, 0
        if self.mirror >= self._mirrors:
            raise self._lasting or error
        return None

    def _waiting(self, error: DownloadError) -> Waiting:
        if isinstance(error, RateLimited):
            seconds = error.seconds
        else:
            spread = self._pace.spread
            seconds = self._pace.waits[self._barren - 1] * random.uniform(1 - spread, 1 + spread)
        return Waiting(error, time.monotonic() + seconds, self._barren, len(self._pace.waits))
