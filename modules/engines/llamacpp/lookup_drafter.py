"""Draft tokens of one answer by prompt lookup, and how likely they are right, learned as the answer goes on."""

from __future__ import annotations

from array import array

from modules.engines.llamacpp.acceptance import AcceptanceRates
from modules.engines.prompt_lookup import PromptLookup

MATCH_LENGTHS = (1, 2, 3, 5, 8, 12, 20)
ASSUMED_RATES = (0.15, 0.45, 0.57, 0.67, 0.85, 0.92, 0.95)
"""How often the token after a match of such a length was right in eight chats with SmolLM2."""


class LookupDrafter:
    """Draft tokens of one answer by prompt lookup, at most `max_tokens`. `tokens` are the prompt's; it may grow."""

    def __init__(self, tokens: array[int], max_tokens: int) -> None:
        self._lookup = PromptLookup(tokens)
        self._rates = AcceptanceRates(MATCH_LENGTHS, ASSUMED_RATES)
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
