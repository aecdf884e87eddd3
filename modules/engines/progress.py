"""How far a load has come."""

from __future__ import annotations

from collections.abc import Callable

from modules.core.events import Progress
from modules.engines.engine_protocol import Report


def whole_percents(report: Report) -> Callable[[float], None]:
    """Takes a library's many calls, and passes one on for each percent."""
    last = -1

    def advance(done: float) -> None:
        nonlocal last
        if int(done * 100) > last:
            last = int(done * 100)
            report(Progress("weights", done))

    return advance
