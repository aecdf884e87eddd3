"""Prompt lookup: the continuation of a match while it lasts, else of the longest n-gram that occurred before."""

from __future__ import annotations

import random
import time

import pytest

from modules.engines.prompt_lookup import MAX_COMPARED, MAX_INDEXED, PromptLookup

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
            assert PromptLookup(tokens).draft(max_tokens) == expected


def test_tokens_that_are_appended_are_taken_up_as_if_they_had_been_there(subtests: pytest.Subtests) -> None:
    for tokens, max_tokens, expected in DRAFTS:
        with subtests.test(tokens=tokens, max_tokens=max_tokens):
            text: list[int] = []
            lookup = PromptLookup(text)
            for token in tokens:
                text.append(token)
                lookup.update()
            assert lookup.draft(max_tokens) == expected


def test_a_long_match_is_followed_past_later_occurrences_of_its_ngram() -> None:
    original = [1, 2, 3, 4, 5, 6, 7, 8]
    text = [*original, 0, 3, 4, 5, 9, *original[:4]]
    lookup = PromptLookup(text)
    assert (lookup.matched, lookup.draft(1)) == (4, [5])
    text.append(5)
    lookup.update()
    assert (lookup.matched, lookup.draft(2)) == (5, [6, 7])


def test_the_length_of_a_match_is_counted_backwards_up_to_a_bound() -> None:
    text = [*range(10, 15), 0, *range(10, 15)]
    assert PromptLookup(text).matched == 5
    assert PromptLookup([*range(100), *range(100)]).matched == MAX_COMPARED


def test_of_a_very_long_prompt_only_the_end_is_indexed() -> None:
    begins_with = PromptLookup([1, 2, 3, 4, *range(5, MAX_INDEXED + 1), 1, 2, 3])
    assert begins_with.matched == 0
    within = PromptLookup([*range(9, 99), 1, 2, 3, 4, *range(100, MAX_INDEXED), 1, 2, 3])
    assert within.draft(2) == [4, 100]


def test_taking_up_a_token_of_a_long_text_costs_microseconds() -> None:
    tokens = random.Random(1).choices(range(500), k=20_000)
    lookup = PromptLookup(tokens)
    tokens += tokens[:500]
    began = time.process_time()
    lookup.update()
    assert time.process_time() - began < 500 * 50e-6
