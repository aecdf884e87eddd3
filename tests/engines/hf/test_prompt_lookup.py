"""Prompt lookup: the longest n-gram at the end that occurred before, at its last occurrence."""

from __future__ import annotations

import pytest

from modules.engines.hf.prompt_lookup import draft_tokens

DRAFTS: list[tuple[list[int], int, list[int]]] = [
    ([], 3, []),
    ([1], 3, []),
    ([1, 2, 3], 3, []),
    ([1, 2, 3, 1], 2, [2, 3]),
    ([1, 2, 3, 1], 9, [2, 3, 1]),
    ([5, 1, 7, 5, 1, 8, 5, 1], 1, [8]),
    ([1, 2, 9, 4, 2, 8, 1, 2], 1, [9]),
    ([7, 7, 7], 2, [7]),
    ([1, 2, 3], 0, []),
]


def test_the_draft_is_what_followed_the_same_ngram_before(subtests: pytest.Subtests) -> None:
    for tokens, max_tokens, expected in DRAFTS:
        with subtests.test(tokens=tokens, max_tokens=max_tokens):
            assert draft_tokens(tokens, max_tokens) == expected
