"""How patient a download is: what is waited for how long, how often, and when the next mirror takes over."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from modules.hub.errors import DownloadError, RateLimited

MIB = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Pace:
    """Seconds and bytes. `waits` are what is waited before the first, second, … new try, give or take `spread`; if the
    last one fails, too, the mirror is given up: after `waits_with_others` of them already, where there are others. A
    try that brings `progress` bytes makes up for all before it. A connection that brings less than `slow` bytes a
    second for `slow_seconds` is made anew.

    Files from `split_from` on come over up to `connections`, each with `least_segment` at least. What is there is
    written down every `save_seconds`, and forced to the disk every `sync_seconds`.
    """

    waits: tuple[float, ...] = (1, 2, 4, 8, 16, 30)
    waits_with_others: int = 2
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


class Tries(Generic[T]):
    """What is tried at one of the `mirrors` after the other; `mirror` is the one whose turn it is.

    One that is given up because it does not come to itself is put among the `lost`, and those are not begun with as
    long as there are others: not everybody shall wait for it in vain.
    """

    def __init__(self, pace: Pace, mirrors: Sequence[T], lost: list[T]) -> None:
        self._pace, self._lost = pace, lost
        self._left = [each for each in mirrors if each not in lost] or list(mirrors)
        self._barren = 0
        self._lasting: DownloadError | None = None

    @property
    def mirror(self) -> T:
        return self._left[0]

    def failed(self, error: DownloadError, progress: int = 0) -> Waiting | None:
        """What to wait for before the next try, after one that brought `progress` bytes; None: the next mirror's turn.

        Raises `error`, or an earlier one that says more, if no mirror is left.
        """
        if progress >= self._pace.progress:
            self._barren = 0
        self._barren += 1
        if error.passing and self._barren <= self._most:
            return self._waiting(error)
        if error.passing:
            self._lost.append(self.mirror)
        else:
            self._lasting = self._lasting or error
        if len(self._left) == 1:
            raise self._lasting or error
        self._left, self._barren = self._left[1:], 0
        return None

    @property
    def _most(self) -> int:
        every = len(self._pace.waits)
        return every if len(self._left) == 1 else min(every, self._pace.waits_with_others)

    def _waiting(self, error: DownloadError) -> Waiting:
        if isinstance(error, RateLimited):
            seconds = error.seconds
        else:
            spread = self._pace.spread
            seconds = self._pace.waits[self._barren - 1] * random.uniform(1 - spread, 1 + spread)
        return Waiting(error, time.monotonic() + seconds, self._barren, self._most)
