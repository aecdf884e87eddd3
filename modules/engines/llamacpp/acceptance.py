"""How likely draft tokens are right, learned from those that were."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

_LEARNING_RATE = 0.5
_SHARED_LEARNING_RATE = 0.3


class AcceptanceRates:
    """How likely draft tokens are right by a `sign` of it, such as the length of the match that they continue.

    An online logistic regression with a weight for each group of signs, and one for all, as some answers are easier to
    draft than others. `starts` are the smallest signs of the groups, `assumed` their rates before anything is known.
    """

    def __init__(self, starts: Sequence[float], assumed: Sequence[float]) -> None:
        self._starts = starts
        self._weights = [math.log(rate / (1 - rate)) for rate in assumed]
        self._shared = 0.0

    def copy(self) -> AcceptanceRates:
        new = AcceptanceRates(self._starts, ())
        new._weights, new._shared = self._weights[:], self._shared
        return new

    def record(self, sign: float, is_right: bool) -> None:
        error = is_right - self.rate(sign)
        self._weights[self._group(sign)] += _LEARNING_RATE * error
        self._shared += _SHARED_LEARNING_RATE * error

    def rate(self, sign: float) -> float:
        return 1 / (1 + math.exp(-self._shared - self._weights[self._group(sign)]))

    def _group(self, sign: float) -> int:
        return bisect_right(self._starts, sign) - 1
