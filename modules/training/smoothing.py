"""The smoothed loss of a run, as the live line, the curve and the command line show it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

WEIGHT = 0.9
"""Weight of the earlier losses."""


@dataclass(frozen=True)
class MovingAverage:
    """An exponential moving average, divided by the sum of its weights, so that the first values do not dominate."""

    total: float = 0.0
    weights: float = 0.0

    def add(self, value: float) -> MovingAverage:
        """Return the average with one more value. One that is not finite changes nothing."""
        if not math.isfinite(value):
            return self
        return MovingAverage(WEIGHT * self.total + (1 - WEIGHT) * value, WEIGHT * self.weights + (1 - WEIGHT))

    @property
    def value(self) -> float | None:
        """The average; None without values."""
        return self.total / self.weights if self.weights else None


def smoothed(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the moving average of the values of a curve at each of its points. Values not finite are left out."""
    average, result = MovingAverage(), []
    for x, y in points:
        average = average.add(y)
        if average.value is not None and math.isfinite(y):
            result.append((x, average.value))
    return result
