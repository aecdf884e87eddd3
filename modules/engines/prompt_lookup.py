"""Prompt lookup decoding (Saxena, 2023): draft tokens copied from earlier in the text, to be verified in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

MAX_NGRAM = 3
"""Length of the longest n-gram looked up. The longer a match, the likelier its continuation repeats."""
MAX_INDEXED = 1 << 15
"""Tokens at the end of a prompt that are indexed, at most: an index takes some 600 bytes a token."""
MAX_COMPARED = 32
"""Tokens before a match that are compared to tell its length, at most."""


class PromptLookup:
    """An index of the n-grams in `tokens`, to which the owner may append.

    `update` takes up what was appended. The end of the text then equals the `matched` tokens before `position`, and the
    tokens from there on are the draft; both are 0 where nothing matches. A match of MAX_NGRAM tokens is followed as
    long as the text continues as it does. Any other one is the last earlier occurrence of the longest n-gram. Taking up
    a token costs a microsecond, however long the text is.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens
        self.position = self.matched = 0
        self._size = len(tokens)
        self._next: dict[tuple[int, ...], int] = {}  # where the token is that followed the last occurrence of an n-gram
        start = max(self._size - MAX_INDEXED, 0)
        for length in range(1, MAX_NGRAM + 1):
            ngrams = zip(*(islice(tokens, begin, None) for begin in range(start, start + length)), strict=False)
            self._next.update(zip(ngrams, range(start + length, self._size), strict=False))
        self._search()

    def update(self) -> list[tuple[int, bool]]:
        """Take up the tokens that were appended.

        Return, for those before which there was a match, how long it was and whether it continued as the text did.
        """
        tokens, outcomes = self.tokens, []
        while self._size < len(tokens):
            size = self._size
            for length in range(1, min(MAX_NGRAM, size) + 1):
                self._next[tuple(tokens[size - length : size])] = size
            is_right = bool(self.matched) and tokens[size] == tokens[self.position]
            if self.matched:
                outcomes.append((self.matched, is_right))
            self._size += 1
            if is_right and self.matched >= MAX_NGRAM:
                self.position, self.matched = self.position + 1, self.matched + 1
            else:
                self._search()
        return outcomes

    def draft(self, max_tokens: int) -> list[int]:
        """Return up to `max_tokens` tokens that may come next."""
        return list(self.tokens[self.position : self.position + max_tokens]) if self.matched else []

    def _search(self) -> None:
        end = self._size
        for length in range(min(MAX_NGRAM, end), 0, -1):
            if position := self._next.get(tuple(self.tokens[end - length : end])):
                self.position, self.matched = position, self._match_length(position, length)
                return
        self.position = self.matched = 0

    def _match_length(self, position: int, length: int) -> int:
        """Return how many tokens before `position` equal those at the end, of which `length` are known to."""
        tokens, end = self.tokens, self._size
        while length < min(position, MAX_COMPARED) and tokens[position - length - 1] == tokens[end - length - 1]:
            length += 1
        return length
