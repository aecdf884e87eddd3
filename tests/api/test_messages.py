"""The fields of a message and their meanings."""

from __future__ import annotations

from typing import Any

import pytest

from modules.api.messages import Message
from modules.api.schemas import ChatRequest
from modules.core.errors import OptionError


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
    assert (message.content, message.template_fields) == ("", template_fields)


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


def calls_of(**fields: object) -> Any:
    return Message.model_validate({"role": "assistant", **fields}).template_fields.get("tool_calls")


def test_calls_are_read_from_the_fields_of_every_api(subtests: pytest.Subtests) -> None:
    def call(id: str, name: str, arguments: str) -> dict[str, object]:
        return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}

    cases: list[tuple[dict[str, Any], object]] = [
        ({"tool_calls": [call("call_9", "f", '{"a": 1}')]}, [call("call_9", "f", '{"a": 1}')]),
        (
            {"tool_calls": [{"function": {"name": "f"}}, {"function": {"name": "g", "arguments": {"é": 1}}}]},
            [call("call_0", "f", "{}"), call("call_1", "g", '{"é": 1}')],
        ),
        ({"function_call": {"name": "f", "arguments": "{"}}, [call("call_0", "f", "{")]),
        (
            {"tool_calls": [{"id": "x", "type": "custom", "custom": {"name": "patch", "input": "+a"}}]},
            [call("x", "patch", '{"input": "+a"}')],
        ),
        ({"tool_calls": [], "function_call": None}, None),
    ]
    for fields, calls in cases:
        with subtests.test(fields=ascii(fields)):
            assert calls_of(**fields) == calls


def test_a_call_without_a_name_is_refused(subtests: pytest.Subtests) -> None:
    for call in ({}, {"function": {"arguments": "{}"}}, {"function": {"name": ""}}, {"function": "f"}, "f"):
        with (
            subtests.test(call=call),
            pytest.raises(OptionError, match=r"messages\[0\]\.tool_calls: .*a list of calls"),
        ):
            ChatRequest.model_validate({"messages": [{"role": "assistant", "tool_calls": [call]}]})
