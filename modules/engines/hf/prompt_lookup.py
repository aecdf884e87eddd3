"""Prompt lookup: what may come next if the text goes on as it did before (Saxena, 2023)."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_KEY = 3
"""Tokens at the end that are looked for earlier; the longer they are, the likelier they go on alike."""


def guess(tokens: Sequence[int], most: int) -> list[int]:
    """At most so many tokens: those that came after the last earlier place where the text ended as it does now."""
    for length in range(min(LONGEST_KEY, len(tokens) - 1), 0, -1):
        key = tokens[-length:]
        for begin in range(len(tokens) - length - 1, -1, -1):
            if tokens[begin + length - 1] == key[-1] and tokens[begin : begin + length] == key:
                return list(tokens[begin + length : begin + length + most])
    return []
