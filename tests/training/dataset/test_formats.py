"""Data formats: which rows they write, how one is found for rows, and what is said of files that are none."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from modules.training.dataset.errors import InvalidFormat
from modules.training.dataset.formats import DataFormat, DataFormats
from modules.training.dataset.values import BadValue

QUESTION = {"question,answer": "Q: %question%\nA: %answer%"}
INVALID: Mapping[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "not JSON in UTF-8 .*line 1"),
    "Latin-1": (b'{"a": "\xe9%a%"}', "not JSON in UTF-8"),
    "a deep list": (b"[" * 100_000, "not JSON in UTF-8"),
    "a list": (b"[]", "expected an object"),
    "an empty object": (b"{}", "expected an object"),
    "a number as a text": (b'{"a": 3}', "expected an object"),
    "a text without its field": (b'{"a,b": "%a% and b"}', r"the text for a,b does not have %b%"),
    "too many bytes": (b'{"a": "%a%' + b" " * 1_000_000 + b'"}', "more than 1,000,000 bytes"),
}


@pytest.fixture
def formats(tmp_path: Path) -> DataFormats:
    """A folder of formats that are all invalid, and one for questions and answers."""
    for name, (content, _) in INVALID.items():
        (tmp_path / f"{name}.json").write_bytes(content)
    (tmp_path / "questions.json").write_text(json.dumps(QUESTION))
    return DataFormats(tmp_path)


def test_a_file_that_is_no_format_is_refused_with_a_sentence(formats: DataFormats, subtests: pytest.Subtests) -> None:
    gc.collect()  # what other tests have left could not be finalized within the deep list
    for name, (_, reason) in INVALID.items():
        with subtests.test(name), pytest.raises(InvalidFormat, match=reason) as refusal:
            formats.read(name)
        assert name in refusal.value.say("zh")


def test_a_format_that_the_disk_does_not_give_is_refused_with_the_reason(formats: DataFormats) -> None:
    (formats.folder / "memory.json").symlink_to("/proc/self/mem")  # a regular file whose first byte cannot be read
    with pytest.raises(InvalidFormat, match="Input/output error"):
        formats.read("memory")


def test_the_format_for_rows_is_found_beside_files_that_are_none(formats: DataFormats) -> None:
    found = formats.matching(frozenset({"answer", "question"}))
    assert found is not None and found.name == "questions"
    assert formats.matching(frozenset({"answer"})) is None


def test_a_row_that_does_not_fit_the_chosen_format_says_what_the_format_takes(subtests: pytest.Subtests) -> None:
    chosen = DataFormat("questions", {frozenset(("question", "answer")): "%question% %answer%"})
    cases = (
        ({"question": "a", "id": 3}, r"fields \(id, question\) do not fit .* questions, which takes answer,question"),
        ({}, r"fields \(none\)"),
        ({"question": ["a"], "answer": "b"}, "question is not a text"),
    )
    for fields, reason in cases:
        with subtests.test(ascii(fields)), pytest.raises(BadValue, match=reason):
            chosen.segments(fields)
