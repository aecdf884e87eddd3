"""The Chat tab without a browser."""

from __future__ import annotations


def test_a_conversation_is_read_in_any_shape() -> None:
    from modules.ui.chat.tab import _plain

    strange = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": {"text": "c"}},
        {"role": "system", "content": None},
    ]
    assert _plain(strange) == [
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": ""},
    ]
    assert _plain(None) == []
