"""The fields of a message and their meanings."""

from __future__ import annotations

from typing import Any

import pytest

from modules.api.messages import Message


@pytest.mark.parametrize(
    ("fields", "template_fields"),
    [
        ({"refusal": None, "annotations": [], "audio": None, "tool_calls": None, "function_call": None}, {}),
        ({"reasoning_content": "a", "reasoning": "b"}, {"reasoning_content": "a"}),
        ({"reasoning": "b"}, {"reasoning_content": "b"}),
        ({"thinking": "c", "tool_call_id": 5}, {"reasoning_content": "c", "tool_call_id": "5"}),
        ({"name": "Ann"}, {"name": "Ann"}),
        ({"thinking": ""}, {}),
        ({"reasoning": {"effort": "low"}, "id": 5, "cache_control": {"type": "ephemeral"}}, {}),
    ],
)  # fmt: skip
def test_an_answer_may_be_sent_back_with_every_field(fields: dict[str, Any], template_fields: object) -> None:
    message = Message.model_validate({"role": "assistant", "content": None, **fields})
    assert (message.content, message.template_fields, message.unsupported) == ("", template_fields, [])


def test_what_a_message_says_is_read_from_the_parts_of_every_api() -> None:
    parts = [
        "a",
        {"type": "text", "text": "b"},
        {"type": "input_text", "text": "c"},
        {"type": "output_text", "text": "d"},
    ]
    others = [{"type": "refusal", "refusal": "e"}, {"type": "thinking", "thinking": "f", "signature": "g"}]
    message = Message.model_validate({"role": "function", "content": [*parts, *others]})
    assert message.role == "tool"
    assert isinstance(message.content, list)
    assert [(part.type, part.text) for part in message.content] == [("text", text) for text in "abcde"]
