"""The fields of a chat request and their meanings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modules.api.schemas import MAX_TEMPLATE_KWARGS, ChatRequest
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


def test_candidates_are_listed_if_log_probabilities_are_asked_for() -> None:
    assert chat(logprobs=True, top_logprobs=3).candidates == 3
    assert chat(logprobs=True).candidates == 0 and chat(top_logprobs=0).candidates is None
    with pytest.raises(OptionError, match=r"top_logprobs: 3 .*logprobs: true beside it"):
        _ = chat(top_logprobs=3).candidates


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": []},
        {"chat_template_kwargs": "{}"},
        {"reasoning_effort": "a lot"},
        {"model": "\ud800"},  # half a character
    ],
)
def test_a_wrong_type_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(fields))):
        chat(**fields)
