"""Axes of charts: round tick values, the text of numbers, and the mapping from values to pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"
_STEPS = (1.0, 2.0, 5.0, 10.0)
_LARGEST = 1e300
"""Beyond this, differences and powers of ten do not fit a float."""
_TINY, _HUGE = 1e-4, 1e6
"""Outside of these, numbers are written with an exponent."""


@dataclass(frozen=True)
class Scale:
    """Maps the values from `low` to `high` to pixels from `start` to `end`. Both values are positive if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def pixel(self, value: float) -> float:
        """Return the position of a value that lies inside."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Return about `count` round values inside, in ascending order."""
        return log_ticks(self.low, self.high, count) if self.log else linear_ticks(self.low, self.high, count)


def fitted_scale(values: Iterable[float], start: float, end: float, log: bool = False) -> Scale:
    """Return a scale on which all of these values lie; those that are not finite, or not positive if `log`, count not.

    Values that are all the same lie in its middle. Without any value, it goes from 0 to 1, or 1 to 10.
    """
    usable = [value for value in values if is_drawable(value, log)]
    if not usable:
        return Scale(1.0 if log else 0.0, 10.0 if log else 1.0, start, end, log)
    low, high = min(usable), max(usable)
    if log:
        factor = 1.5 if high / low < 1.001 else 1.0
        return Scale(low / factor, high * factor, start, end, log)
    margin = (abs(high) / 2 or 0.5) if high - low <= abs(high) * 1e-12 else 0.0
    return Scale(low - margin, high + margin, start, end)


def is_drawable(value: float, log: bool = False) -> bool:
    """Whether a value has a position on an axis."""
    return abs(value) < _LARGEST and (value > 1 / _LARGEST or not log)


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Return the multiples of 1, 2 or 5 times a power of ten from `low` to `high`, at most about `count` of them."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in _STEPS if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """Return powers of ten from `low` to `high`, with 2 and 5 times these if there is room.

    Within a range too narrow for two of these, it returns what `linear_ticks` does.
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        inside = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(inside) < 2:
            return [value for value in linear_ticks(low, high, count) if value > 0]
        if len(inside) <= count + 1:
            return inside
    return inside[:: math.ceil(len(inside) / count)]


def tick_texts(ticks: list[float]) -> list[str]:
    """Return the texts of ticks, all with the same number of decimals if their distances are the same."""
    steps = {round(after - before, 12) for before, after in itertools.pairwise(ticks)}
    if len(steps) != 1 or any(value and not _TINY <= abs(value) < _HUGE for value in ticks):
        return [number_text(value) for value in ticks]
    decimals = max(0, -math.floor(math.log10(steps.pop()) + 1e-9))
    return [f"{value + 0.0:.{decimals}f}".replace("-", MINUS) for value in ticks]


def number_text(value: float, digits: int = 4) -> str:
    """Return a number with `digits` significant digits, the same in both languages; "–" for NaN."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value and not _TINY <= abs(value) < _HUGE:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", MINUS)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", MINUS)
