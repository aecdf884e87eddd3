"""Marks of images: no text of a user is one."""

from __future__ import annotations

from modules.core.image_marks import escaped, mark, marked_numbers, shown, split_at_marks


def test_a_text_is_split_at_its_marks() -> None:
    text = f"one{mark(0)}{mark(12)}two{mark(0)}"
    assert split_at_marks(text) == ["one", 0, 12, "two", 0]
    assert marked_numbers(text) == [0, 12, 0]
    assert shown(text) == "one<image><image>two<image>"


def test_an_escaped_text_has_no_marks_and_is_else_unchanged() -> None:
    for text in ("plain 文本", f"a{mark(1)}b", "\ufdd0\ufdd02\ufdd1\ufdd1"):
        assert marked_numbers(escaped(text)) == []
    assert escaped("plain 文本 <__media__> <image>") == "plain 文本 <__media__> <image>"
