"""Bodies of Responses as chat completions, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from modules.api.openai_responses.conversion import Conversion, convert
from modules.api.openai_responses.schemas import ResponsesRequest
from modules.core.errors import OptionError, UnknownOption, Unsupported, both
from tests.support import codex_bodies

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def converted(**fields: Any) -> Conversion:
    return convert(ResponsesRequest.model_validate({"input": "Hi", **fields}))


def test_fields_get_the_names_of_chat_completions() -> None:
    text = {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}}
    chat = converted(
        model="m", stream=True, text=text, reasoning={"effort": "low", "summary": "auto"}, max_output_tokens=9
    ).chat
    assert (chat.model, chat.stream, chat.reasoning_effort) == ("m", True, "low")
    assert chat.schema == SCHEMA
    assert (chat.model_extra or {})["max_completion_tokens"] == 9


def test_generation_parameters_are_those_of_chat_completions() -> None:
    chat = converted(temperature=0, repeat_penalty=1.1, stop=["x"], chat_template_kwargs={"a": 1}).chat
    assert chat.model_extra == {"temperature": 0, "repetition_penalty": 1.1}
    assert (chat.stops, chat.template_kwargs) == (["x"], {"a": 1})


def test_log_probabilities_are_asked_for_by_either_field() -> None:
    assert converted(top_logprobs=2).chat.candidates == 2
    assert converted(include=["message.output_text.logprobs"]).chat.candidates == 0
    assert converted(include=["reasoning.encrypted_content"]).chat.candidates is None


def test_automatic_truncation_drops_the_oldest_messages_at_the_context() -> None:
    assert (converted(truncation="auto").chat.model_extra or {})["truncation_length"] > 0
    assert "truncation_length" not in (converted().chat.model_extra or {})


def test_what_has_no_effect_is_accepted(subtests: pytest.Subtests) -> None:
    cases: list[dict[str, Any]] = [
        {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "user": "me", "client_metadata": {}},
        {"previous_response_id": None, "conversation": None, "background": False, "prompt": None},
        {"previous_response_id": "", "tools": None, "tool_choice": None, "text": None, "reasoning": None},
        {"tools": [{"type": "web_search"}], "tool_choice": "auto", "parallel_tool_calls": False},
        {"stream_options": {"include_obfuscation": False}, "n": 1, "logprobs": None},
    ]
    for fields in cases:
        with subtests.test(str(fields)):
            converted(**fields)


def test_what_is_left_out_is_reported() -> None:
    conversion = converted(
        input=[{"role": "user", "content": "Hi"}, {"type": "web_search_call"}],
        tools=[{"type": "web_search"}],
        text={"verbosity": "low"},
        reasoning={"effort": "low", "context": "auto"},
    )
    assert conversion.ignored == ["tools[0]", "input[1]", "text.verbosity", "reasoning.context"]


def test_a_stateful_or_invalid_field_is_refused_by_name(subtests: pytest.Subtests) -> None:
    cases: dict[str, dict[str, Any]] = {
        "previous_response_id": {"previous_response_id": "resp_1"},
        "conversation": {"conversation": {"id": "conv_1"}},
        "background": {"background": True},
        "prompt": {"prompt": {"id": "pmpt_1"}},
        "input": {"input": []},
        "max_output_tokens": {"max_output_tokens": 0},
        "top_logprobs": {"top_logprobs": 21},
        "truncation": {"truncation": "middle"},
        "metadata": {"metadata": {"a": 1}},
        "text": {"text": {"format": "json"}},
        "text.format": {"text": {"format": {"type": "json_schema"}}},
        "reasoning": {"reasoning": {"effort": "huge"}},
        "tool_choice": {"tool_choice": "always"},
        "n": {"n": 2},
        "input[1].content": {"input": [{"type": "ghost"}, {"role": "user", "content": "\ud800"}]},
        "stop": {"stop": 5},
    }
    for name, fields in cases.items():
        with subtests.test(name), pytest.raises(OptionError) as caught:
            converted(**fields)
        assert caught.value.option == name


def test_metadata_has_openais_limits(subtests: pytest.Subtests) -> None:
    converted(metadata={"n" * 64: "x" * 512, **{str(number): "" for number in range(15)}})
    for metadata in ({"n" * 65: ""}, {"a": "x" * 513}, {str(number): "" for number in range(17)}):
        with subtests.test(str(metadata)[:40]), pytest.raises(OptionError, match="metadata"):
            converted(metadata=metadata)


def test_a_field_of_chat_completions_is_refused_with_the_name_that_it_has_here(subtests: pytest.Subtests) -> None:
    for name, own in (
        ("messages", "input"),
        ("response_format", "text.format"),
        ("reasoning_effort", "reasoning.effort"),
    ):
        with subtests.test(name), pytest.raises(UnknownOption) as caught:
            converted(**{name: []})
        assert (caught.value.name, caught.value.nearest) == (name, own)


def test_a_misspelled_field_is_refused() -> None:
    with pytest.raises(UnknownOption, match="'max_output_tokens'"):
        converted(max_output_token=5)


def test_errors_of_the_chat_completion_name_the_fields_of_the_response() -> None:
    items = [{"type": "ghost"}, {"role": "user", "content": "Hi"}]
    tools = [{"type": "web_search"}, {"type": "function", "name": "search"}]
    conversion = converted(input=items, instructions="Rules", tools=tools)
    assert conversion.path("messages[1].content[2]") == "input[1].content[2]"
    assert conversion.path("tools[0].function.name") == "tools[1].name"
    assert conversion.path("max_completion_tokens") == "max_output_tokens"
    made_up = f"tools[{'9' * 5000}]"
    assert conversion.path(made_up) == made_up
    error = conversion.respelled(Unsupported(both("messages[1].content[0]: no images")))
    assert str(error) == "input[1].content[0]: no images"


def test_codexs_requests_are_understood() -> None:
    body = codex_bodies.later_turn("Now another one.")
    assert len(body) == 12
    conversion = convert(ResponsesRequest.model_validate(body))
    assert conversion.ignored == ["tools[3]", "tools[4]", "input[7]", "input[10]"]
    assert list(conversion.tools) == ["exec_command", "update_plan", "apply_patch", "mcp__docs__search"]
    messages = conversion.chat.messages
    roles = [message.role for message in messages]
    assert roles == [
        "system",
        "developer",
        "user",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    assert messages[4].template_fields["reasoning_content"] == "Look at the folder first."
    assert (conversion.chat.reasoning_effort, conversion.chat.parallel_tool_calls) == ("medium", False)
