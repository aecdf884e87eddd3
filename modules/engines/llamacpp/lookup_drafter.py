"""Draft tokens of one answer by prompt lookup, and how likely they are right, learned as the answer goes on."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right

from modules.engines.prompt_lookup import PromptLookup

_LEARNING_RATE = 0.5
_SHARED_LEARNING_RATE = 0.3


class AcceptanceRates:
    """How likely draft tokens are right, by the length of the match they continue, learned from those of one answer.

    An online logistic regression with a weight for each group of lengths, and one for all, as some answers copy more
    than others. `_STARTS` are the shortest matches of each group, `_ASSUMED` its rates before anything is known, as
    they were measured in chats (benchmarks/draft.py).
    """

    _STARTS = (1, 2, 3, 5, 8, 12, 20)
    _ASSUMED = (0.15, 0.45, 0.57, 0.67, 0.85, 0.92, 0.95)

    def __init__(self) -> None:
        self._weights = [math.log(rate / (1 - rate)) for rate in self._ASSUMED]
        self._shared = 0.0

    def record(self, matched: int, is_right: bool) -> None:
        error = is_right - self.rate(matched)
        self._weights[self._group(matched)] += _LEARNING_RATE * error
        self._shared += _SHARED_LEARNING_RATE * error

    def rate(self, matched: int) -> float:
        return 1 / (1 + math.exp(-self._shared - self._weights[self._group(matched)]))

    def _group(self, matched: int) -> int:
        return bisect_right(self._STARTS, matched) - 1


class LookupDrafter:
    """Draft tokens of one answer by prompt lookup, at most `max_tokens`. `tokens` are the prompt's; it may grow."""

    def __init__(self, tokens: array[int], max_tokens: int) -> None:
        self._lookup = PromptLookup(tokens)
        self._rates = AcceptanceRates()
        self._max_tokens = max_tokens

    def draft(self, room: int) -> tuple[list[int], list[float]]:
        """Return up to `room` draft tokens, and how many right ones to expect of the first 1, 2, … of them."""
        for matched, is_right in self._lookup.update():
            self._rates.record(matched, is_right)
        tokens = self._lookup.draft(min(room, self._max_tokens))
        chance, expected, right = 1.0, 0.0, []
        for matched in range(self._lookup.matched, self._lookup.matched + len(tokens)):
            chance *= self._rates.rate(matched)
            expected += chance
            right.append(expected)
        return tokens, right
