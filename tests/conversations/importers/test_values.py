"""Values of untrusted JSON."""

from __future__ import annotations

import time

import pytest

from modules.conversations.importers.values import as_key, as_line, as_number, as_seconds, as_text, kept, parse_json


def test_times_of_all_kinds_are_seconds(subtests: pytest.Subtests) -> None:
    for value in (
        1714730460,
        1714730460.0,
        1714730460000,
        1714730460000000,
        "1714730460000",
        "2024-05-03T10:01:00Z",
        "2024-05-03T10:01:00.0000001Z",
    ):
        with subtests.test(value=value):
            assert as_seconds(value) == 1714730460.0
    local = time.mktime((2024, 5, 3, 22, 1, 0, 0, 0, -1))
    for text in ("2024-05-03@22h01m00s", "2024-5-3 @22h 1m 0s 123ms", "May 3, 2024 10:01pm", "2024-05-03T22:01:00"):
        with subtests.test(text=text):
            assert as_seconds(text) == local
    for value in (None, True, -5, "", "yesterday", "x" * 1000, "May 99, 2024 10:01pm", "2024-13-03@22h01m00s", [1], {}):
        with subtests.test(value=value):
            assert as_seconds(value) == 0.0


def test_numbers_that_json_cannot_hold_do_no_harm() -> None:
    value = parse_json("[NaN, Infinity, 1e999, " + "9" * 5000 + ", 7]")
    assert value == [None, None, None, None, 7]
    assert as_number(10**400) == as_number(float("inf")) == as_number("7") == as_number(True) == 0.0


def test_texts_can_be_written_as_utf_8() -> None:
    assert as_text(parse_json('"a\\ud800b"')) == "a\ufffdb"
    assert as_text(["a"]) == ""
    assert as_line(" a\n\x00 b ") == "a b"
    assert as_key(7) == "7"
    assert as_key(True) == as_key(1.5) == ""


def test_deep_and_huge_values_are_not_kept() -> None:
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    assert kept(deep) is None
    assert kept("x" * 2_000_000) is None
    assert kept({"a": ["\ud800", 1, None]}) == {"a": ["\ufffd", 1, None]}
