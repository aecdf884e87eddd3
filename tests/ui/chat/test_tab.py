"""The Chat tab without a browser."""

from __future__ import annotations


def test_a_conversation_in_any_of_gradios_formats_becomes_plain_messages() -> None:
    from modules.ui.chat.tab import _plain

    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": {"text": "c"}},
        {"role": "system", "content": None},
    ]
    assert _plain(messages) == [
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": ""},
    ]
    assert _plain(None) == []
