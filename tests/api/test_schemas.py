"""The fields of a chat request and their meanings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modules.api.schemas import MAX_TEMPLATE_KWARGS, ChatRequest, Message
from modules.core.errors import OptionError


def chat(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields})


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({}, {}),
        ({"chat_template_kwargs": {}}, {}),
        ({"chat_template_kwargs": None, "enable_thinking": None, "reasoning_effort": None}, {}),
        ({"chat_template_kwargs": {"date": "today", "n": [1, {}]}}, {"date": "today", "n": [1, {}]}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none", "enable_thinking": True}, {"enable_thinking": True}),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
    ],
)
def test_variables_for_the_chat_template_come_from_three_fields(fields: dict[str, Any], variables: object) -> None:
    assert chat(**fields).template_kwargs == variables


def test_variables_for_the_chat_template_are_bounded() -> None:
    kwargs = {"text": "a" * (MAX_TEMPLATE_KWARGS - len(json.dumps({"text": ""})))}
    assert chat(chat_template_kwargs=kwargs).template_kwargs == kwargs
    with pytest.raises(OptionError, match=r"chat_template_kwargs: .*expected an object of at most 8192 bytes"):
        chat(chat_template_kwargs={"text": kwargs["text"] + "a"})


@pytest.mark.parametrize(
    "fields", [{"chat_template_kwargs": []}, {"chat_template_kwargs": "{}"}, {"reasoning_effort": "a lot"}]
)
def test_a_wrong_type_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(fields))):
        chat(**fields)


# -- messages ----------------------------------------------------------------------------------------------------------


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
