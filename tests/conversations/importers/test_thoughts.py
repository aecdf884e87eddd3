"""Thoughts within finished replies."""

from __future__ import annotations

import pytest

from modules.conversations.importers.thoughts import split_thought

CASES = {
    "<think>Hm.</think>\n\nHi.": ("Hm.", "Hi."),
    "<thinking>\nHm.\n</thinking>\nHi.": ("Hm.", "Hi."),
    "[THINK]Hm.[/THINK]Hi.": ("Hm.", "Hi."),
    "Hm.\n</think>\n\nHi.": ("Hm.", "Hi."),
    "<think>Hm.": ("Hm.", ""),
    "<<<reasoning_content_start>>>Hm.<<<reasoning_content_end>>>Hi.": ("Hm.", "Hi."),
    "Hi.": ("", "Hi."),
    "Models write <think> and </think> around it.": ("", "Models write <think> and </think> around it."),
    "The end is `</think>`.": ("", "The end is `</think>`."),
}


def test_thoughts_are_separated_and_mentions_of_the_tags_are_not(subtests: pytest.Subtests) -> None:
    for text, expected in CASES.items():
        with subtests.test(text):
            assert split_thought(text) == expected
