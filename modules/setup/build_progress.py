"""Count the steps of a ninja build from its output, and estimate the remaining time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

_STEP = re.compile(r"\s*\[(\d+)/(\d+)\] ")
_MIN_STEPS, _MIN_SECONDS = 4, 8.0
"""Steps and seconds after which an estimate is possible."""


class BuildProgress:
    """Progress of a build: `done` of `total` steps; `seconds_left` is None until it can be estimated.

    ninja counts only the steps that remain. `total_file` stores the number of steps of the whole build beside it, so
    that the count of a resumed build continues where it was interrupted.
    """

    def __init__(self, total_file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.done, self.total = 0, 0
        self.seconds_left: float | None = None
        self._total_file = total_file
        self._clock = clock
        self._full_total = _read_number(total_file)
        self._first: tuple[int, float] | None = None  # number and time of the first step of this run

    def read(self, line: str) -> bool:
        """Process a line of output; return whether it was a step."""
        match = _STEP.match(line)
        if match is None:
            return False
        number, remaining = int(match[1]), int(match[2])
        if remaining > self._full_total:
            self._full_total = remaining
            self._total_file.write_text(str(remaining), encoding="utf-8")
        self.total = self._full_total
        self.done = self._full_total - remaining + number
        self._estimate()
        return True

    def _estimate(self) -> None:
        now = self._clock()
        if self._first is None:
            self._first = (self.done, now)
        steps, seconds = self.done - self._first[0], now - self._first[1]
        if steps >= _MIN_STEPS and seconds >= _MIN_SECONDS:
            self.seconds_left = seconds / steps * (self.total - self.done)


def _read_number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
