"""What a browser has sent is read, whatever it is."""

from __future__ import annotations

from types import SimpleNamespace

from modules.ui.sent_values import mapping, sent_by, text_in


def test_values_of_the_wrong_type_count_as_missing() -> None:
    assert sent_by(SimpleNamespace(_data={"a": 1})) == {"a": 1}
    assert sent_by(SimpleNamespace(_data=["a"])) == sent_by(None) == mapping("a") == {}
    assert text_in("你好") == "你好"
    assert text_in(3) == text_in(None) == text_in({}) == ""


def test_half_characters_are_replaced_so_that_a_text_can_be_stored() -> None:
    assert text_in("a\ud800") == "a?"
