"""Names in sentences are in quotation marks, as each language writes them."""

from __future__ import annotations

from modules.core.quotes import fill, in_quotes

TEMPLATE = {"en": "{name!r} has {size:,} bytes.", "zh": "{name!r}有 {size:,} 字节。"}


def test_english_quotes_as_python_does_and_chinese_as_in_print() -> None:
    assert fill(TEMPLATE, "en", {"name": "鹅 a", "size": 1000}) == "'鹅 a' has 1,000 bytes."
    assert fill(TEMPLATE, "zh", {"name": "鹅 a", "size": 1000}) == "“鹅 a”有 1,000 字节。"


def test_what_cannot_be_printed_is_escaped() -> None:
    assert in_quotes("a\n\x1b[1m\ud83d") == r"“a\n\x1b[1m\ud83d”"


def test_other_values_are_shown_as_in_python() -> None:
    assert [in_quotes(value) for value in (5, None, ["a"])] == ["“5”", "“None”", "“['a']”"]
