"""Prompt lookup decoding (Saxena, 2023): draft tokens copied from earlier in the text, to be verified in one pass."""

from __future__ import annotations

from collections.abc import Sequence

MAX_NGRAM = 3
"""Length of the longest n-gram looked up. The longer a match, the likelier its continuation repeats."""


def draft_tokens(tokens: Sequence[int], max_tokens: int) -> list[int]:
    """Return up to `max_tokens` tokens that followed the last earlier occurrence of the n-gram at the end."""
    for length in range(min(MAX_NGRAM, len(tokens) - 1), 0, -1):
        ngram = tokens[-length:]
        for begin in range(len(tokens) - length - 1, -1, -1):
            if tokens[begin + length - 1] == ngram[-1] and tokens[begin : begin + length] == ngram:
                return list(tokens[begin + length : begin + length + max_tokens])
    return []
