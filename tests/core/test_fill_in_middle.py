"""The order of the texts around a gap."""

from __future__ import annotations

from modules.core.fill_in_middle import FimTokens

BEFORE, AFTER, BOS = (10, 11), (20, 21), (1,)


def test_the_text_before_the_gap_comes_first_and_the_answer_follows_the_middle_token() -> None:
    assert FimTokens(5, 6, 7).prompt(BEFORE, AFTER, BOS) == (1, 5, 10, 11, 6, 20, 21, 7)


def test_a_model_may_have_the_text_after_the_gap_first() -> None:
    assert FimTokens(5, 6, 7, suffix_first=True).prompt(BEFORE, AFTER) == (6, 20, 21, 5, 10, 11, 7)


def test_without_a_middle_token_the_answer_follows_the_text_before_the_gap() -> None:
    assert FimTokens(5, 6, suffix_first=True).prompt(BEFORE, AFTER, BOS) == (1, 6, 20, 21, 5, 10, 11)
