"""Titles are derived from the first question: one line of whole words."""

from __future__ import annotations

import pytest

from modules.conversations.errors import InvalidTitle
from modules.conversations.titles import checked_title, derive_title

TITLES = {
    "What is a KV cache?": "What is a KV cache?",
    "\n\n  first\tline \nsecond": "first line",
    "": "",
    "a\x00b\u2028c": "a b",
    "word " * 20: ("word " * 12).strip() + "…",
    "x" * 80: "x" * 59 + "…",
    "模" * 80: "模" * 59 + "…",
    "这是一个很长的问题" + "，模型" * 20: ("这是一个很长的问题" + "，模型" * 20)[:59] + "…",
    "模型" * 20 + " antidisestablishmentarianism": "模型" * 20 + "…",
    "x" * 58 + "e\u0301" * 3: "x" * 58 + "…",
}


def test_titles_of_questions(subtests: pytest.Subtests) -> None:
    for question, title in TITLES.items():
        with subtests.test(question[:20]):
            assert derive_title([question]) == title and len(title) <= 60


def test_the_first_question_with_a_text_gives_the_title() -> None:
    assert derive_title(["", " \n", "third", "fourth"]) == "third"
    assert derive_title([]) == ""


def test_given_titles_are_checked() -> None:
    assert checked_title("  假期 plans ") == "假期 plans"
    assert checked_title(" ") == ""
    for title in ("a\nb", "a\x00", "\ud800", "x" * 201):
        with pytest.raises(InvalidTitle):
            checked_title(title)
