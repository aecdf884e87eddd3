"""Report the progress of loading weights."""

from __future__ import annotations

from collections.abc import Callable

from modules.core.events import Progress
from modules.engines.engine_protocol import Report


def whole_percents(report: Report) -> Callable[[float], None]:
    """Return a callback for the fraction done, from 0 to 1, that reports at most once per percent."""
    last = -1

    def advance(done: float) -> None:
        nonlocal last
        if int(done * 100) > last:
            last = int(done * 100)
            report(Progress("weights", done))

    return advance
