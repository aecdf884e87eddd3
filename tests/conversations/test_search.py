"""Search finds all words in any case, in Chinese too, and reads few files for it."""

from __future__ import annotations

import json

import pytest

from modules.conversations.search import Query

TEXTS = [
    "The model said: “Zugzwang!”",
    "上下文长度是多少？",
    "Ein großer Fuß in Éire",
    'a "quoted" C:\\path',
    "👍 emoji",
]
FOUND = [
    "zugzwang", "ZUGZ", "model said", "上下文", "长度 zug", "GROßER", "große", "éire", "ÉIRE", '"quoted"', "c:\\path",
    "👍", "said: “",
]  # fmt: skip
NOT_FOUND = ["zugzwangs", "下文上", "zug missing", "content"]


@pytest.mark.parametrize("ascii", [False, True])
def test_a_file_is_only_skipped_if_it_has_not_the_words(ascii: bool, subtests: pytest.Subtests) -> None:
    content = json.dumps({"content": TEXTS}, ensure_ascii=ascii).encode()
    for text in FOUND:
        with subtests.test(text):
            assert Query(text).may_match(content)
            assert Query(text).match("", TEXTS)
    for text in NOT_FOUND:
        with subtests.test(text):
            assert Query(text).match("", TEXTS) is None
    assert not Query("zugzwangs").may_match(content) and not Query("下文上").may_match(content)


def test_words_of_letters_with_case_alone_skip_files_as_well() -> None:
    content = json.dumps({"content": ["Привет, МИР"]}, ensure_ascii=False).encode()
    assert Query("привет мир").may_match(content)
    assert not Query("привет мира").may_match(content)


def test_titles_are_searched_too_and_need_no_snippet() -> None:
    assert Query("TITLE").match("A title", ["title"]) == ""
    assert Query("title word").match("A title", ["some word"]) == "some word"


def test_a_snippet_surrounds_the_first_word_found() -> None:
    text = "a " * 100 + "needle\n in  the hay " + "b " * 100
    snippet = Query("needle").match("", ["nothing", text])
    assert snippet is not None and snippet.startswith("…a a") and snippet.endswith("b b…")
    assert "a needle in the hay b" in snippet
    assert Query("short").match("", ["short"]) == "short"
