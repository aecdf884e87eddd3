"""Rows as conversations: what is kept of a message besides its text."""

from __future__ import annotations

from modules.training.dataset.conversations import conversation_of


def test_a_call_of_a_tool_is_an_answer_without_a_text_and_keeps_its_ids() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    rows = [
        {"role": "user", "content": "What time is it?", "tool_calls": "none"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "I look."},
        {"role": "observation", "content": "", "tool_call_id": "call_1", "name": "clock"},
        {"role": "assistant", "content": "Noon."},
    ]
    found = conversation_of({"messages": rows})
    assert found is not None and found.answers == [1, 3]
    assert found.messages == (
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": "", "reasoning_content": "I look.", "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "call_1", "name": "clock"},
        {"role": "assistant", "content": "Noon."},
    )
