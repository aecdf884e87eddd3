"""Count the steps of a ninja build from its output, and estimate the time left."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

_STEP = re.compile(r"\s*\[(\d+)/(\d+)\] ")
_SURE_AFTER_STEPS, _SURE_AFTER_SECONDS = 4, 8.0


class BuildSteps:
    """`done` of `total` steps, and `seconds_left` by the pace so far; None until that can be estimated.

    ninja counts only what is left to do. `kept` is a file beside the build that remembers how many steps the whole
    build has, so that a resumed one goes on at the number where it was interrupted.
    """

    def __init__(self, kept: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.done, self.total = 0, 0
        self.seconds_left: float | None = None
        self._kept = kept
        self._clock = clock
        self._whole = _read_number(kept)
        self._begun: tuple[int, float] | None = None  # the first step seen in this run, and when

    def read(self, line: str) -> bool:
        """Take in a line of output; whether it was a step."""
        match = _STEP.match(line)
        if match is None:
            return False
        number, of = int(match[1]), int(match[2])
        if of > self._whole:
            self._whole = of
            self._kept.write_text(str(of), encoding="utf-8")
        self.total = self._whole
        self.done = self._whole - of + number
        self._estimate()
        return True

    def _estimate(self) -> None:
        now = self._clock()
        if self._begun is None:
            self._begun = (self.done, now)
        steps, seconds = self.done - self._begun[0], now - self._begun[1]
        if steps >= _SURE_AFTER_STEPS and seconds >= _SURE_AFTER_SECONDS:
            self.seconds_left = seconds / steps * (self.total - self.done)


def _read_number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
