"""Guessing from earlier text: the longest ending that occurred before, at its latest place."""

from __future__ import annotations

import pytest

from modules.engines.hf.prompt_lookup import draft_tokens

GUESSES: list[tuple[list[int], int, list[int]]] = [
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


def test_the_tokens_that_followed_the_same_tokens_are_guessed(subtests: pytest.Subtests) -> None:
    for tokens, most, expected in GUESSES:
        with subtests.test(tokens=tokens, most=most):
            assert draft_tokens(tokens, most) == expected
