"""Retries of a download: how long to wait between attempts, and when the next mirror takes over."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from modules.hub.errors import DownloadError, RateLimited

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and after how long a failed attempt is repeated.

    `waits` are the seconds before the first, second, … retry, varied by a factor of up to 1 ± `jitter`. After the last
    one fails, too, the mirror is given up; while there are other mirrors, after `waits_with_others` retries already. An
    attempt that brings `progress_bytes` resets the count. A connection that brings less than `min_rate` bytes per
    second over `stall_seconds` is replaced.
    """

    waits: tuple[float, ...] = (1, 2, 4, 8, 16, 30)
    waits_with_others: int = 2
    jitter: float = 0.5
    progress_bytes: int = 64 << 10
    min_rate: int = 1 << 10
    stall_seconds: float = 60


@dataclass(frozen=True)
class RetryWait:
    """A pending retry: number `attempt` of `attempts`, at time `until` of `time.monotonic`, because of `error`."""

    error: DownloadError
    until: float
    attempt: int
    attempts: int


class MirrorRotation(Generic[T]):
    """Chooses the mirror for the next attempt; `current` is the one in use.

    A mirror that is given up because of a transient error is added to `unreachable`. Rotations that share this list
    skip such mirrors as long as there are others, so that not every file waits for them anew.
    """

    def __init__(self, policy: RetryPolicy, mirrors: Sequence[T], unreachable: list[T]) -> None:
        self._policy, self._unreachable = policy, unreachable
        self._mirrors = [mirror for mirror in mirrors if mirror not in unreachable] or list(mirrors)
        self._failures = 0  # of the current mirror, since it last made progress
        self._permanent: DownloadError | None = None

    @property
    def current(self) -> T:
        return self._mirrors[0]

    def record_failure(self, error: DownloadError, progress: int = 0) -> RetryWait | None:
        """Count a failed attempt that brought `progress` bytes.

        Returns the wait before the next attempt, or None if the next mirror takes over at once. Raises `error`, or an
        earlier permanent error, if no mirror is left.
        """
        if progress >= self._policy.progress_bytes:
            self._failures = 0
        self._failures += 1
        if error.transient and self._failures <= self._max_retries:
            return self._wait(error)
        if error.transient:
            self._unreachable.append(self.current)
        else:
            self._permanent = self._permanent or error
        if len(self._mirrors) == 1:
            raise self._permanent or error
        self._mirrors, self._failures = self._mirrors[1:], 0
        return None

    @property
    def _max_retries(self) -> int:
        retries = len(self._policy.waits)
        return retries if len(self._mirrors) == 1 else min(retries, self._policy.waits_with_others)

    def _wait(self, error: DownloadError) -> RetryWait:
        if isinstance(error, RateLimited):
            seconds = error.seconds
        else:
            jitter = self._policy.jitter
            seconds = self._policy.waits[self._failures - 1] * random.uniform(1 - jitter, 1 + jitter)
        return RetryWait(error, time.monotonic() + seconds, self._failures, self._max_retries)
