"""Requests to Anthropic's API as chat completions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modules.api.anthropic.conversion import Conversion, convert
from modules.api.anthropic.schemas import MessagesRequest
from modules.core.errors import OptionError, Unsupported

HELLO = [{"role": "user", "content": "Hello"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ADD = {"name": "add", "description": "Add", "input_schema": {"type": "object"}}


def converted(**fields: Any) -> Conversion:
    return convert(MessagesRequest.model_validate({"max_tokens": 9, "messages": HELLO, **fields}))


def messages(*contents: Any, system: Any = "") -> list[dict[str, Any]]:
    """Return the messages of a chat in which user and assistant take turns."""
    turns = [{"role": ("user", "assistant")[index % 2], "content": one} for index, one in enumerate(contents)]
    chat = converted(messages=turns, system=system).chat
    return [{"role": one.role, "content": text_of(one.content), **one.template_fields} for one in chat.messages]


def text_of(content: Any) -> Any:
    return content if isinstance(content, str) else [part.text or part.type for part in content]


def test_the_system_prompt_is_the_first_message() -> None:
    expected = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert messages("Hi", system="Be brief.") == expected
    blocks = [
        {"type": "text", "text": "Be"},
        {"type": "text", "text": "brief.", "cache_control": {"type": "ephemeral"}},
    ]
    assert messages("Hi", system=blocks)[0]["content"] == "Be\n\nbrief."


def test_a_system_message_may_stand_between_the_turns() -> None:
    blocks = [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]
    chat = converted(messages=[*HELLO, {"role": "system", "content": blocks}, *HELLO]).chat
    assert [(one.role, one.content) for one in chat.messages][1] == ("system", "Be\n\nbrief.")


def test_the_line_that_claude_code_changes_in_every_request_is_dropped() -> None:
    line = "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch=fa690;"
    blocks = [{"type": "text", "text": line}, {"type": "text", "text": "You are a coder."}]
    assert messages("Hi", system=blocks)[0]["content"] == "You are a coder."
    assert messages("Hi", system=f"{line}\nYou are a coder.")[0]["content"] == "You are a coder."
    assert [message["role"] for message in messages("Hi", system=[blocks[0]])] == ["user"]
    assert messages([blocks[0]])[0]["content"] == [line]


def test_calls_and_their_results_become_messages() -> None:
    answer = [
        {"type": "thinking", "thinking": "Two numbers.", "signature": "abc"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "I add."},
        {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1, "名": [2]}},
        {"type": "tool_use", "id": "toolu_2", "name": "add", "input": {}},
    ]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "3"}, image]},
        {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True, "content": "no numbers"},
        {"type": "text", "text": "Go on."},
    ]
    _, called, first, second, user = messages("1 + 2?", answer, results)
    assert (called["content"], called["reasoning_content"]) == ("I add.", "Two numbers.")
    assert [call["id"] for call in called["tool_calls"]] == ["toolu_1", "toolu_2"]
    assert json.loads(called["tool_calls"][0]["function"]["arguments"]) == {"a": 1, "名": [2]}
    assert first == {"role": "tool", "content": "3", "tool_call_id": "toolu_1"}
    assert second == {"role": "tool", "content": "Error: no numbers", "tool_call_id": "toolu_2"}
    assert user == {"role": "user", "content": ["image_url", "Go on."]}
    bare = [{"type": "tool_result", "tool_use_id": "toolu_1"}]
    assert messages("1 + 2?", answer, bare)[2:] == [{"role": "tool", "content": "", "tool_call_id": "toolu_1"}]


def test_texts_of_documents_and_search_results_are_read() -> None:
    document = {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "D"}}
    parts = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "C"}]}}
    result = {"type": "search_result", "source": "s", "title": "S", "content": [{"type": "text", "text": "R"}]}
    assert messages([document, parts, result])[0]["content"] == ["T\n\nD", "C", "S\n\nR"]


def test_an_answer_that_was_begun_is_continued() -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Hi, I"}]
    assert converted(messages=begun).chat.continue_ and not converted().chat.continue_
    call = [{"type": "tool_use", "id": "toolu_1", "name": "add", "input": {}}]
    assert not converted(messages=[*HELLO, {"role": "assistant", "content": call}]).chat.continue_


def test_tools_that_are_functions_are_passed_on_and_others_reported() -> None:
    tools = [
        {**ADD, "cache_control": {"type": "ephemeral"}, "strict": True},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
        {"type": "custom", "name": "now", "input_schema": {}, "defer_loading": True, "eager_input_streaming": None},
    ]
    found = converted(tools=tools)
    functions = found.chat.functions
    names = [function.name for function in functions]
    assert (names, found.ignored) == (["add", "now"], ("tools[1]", "tools[2].defer_loading"))
    assert (functions[0].description, functions[0].parameters, functions[0].strict) == ("Add", {"type": "object"}, True)
    assert converted(tools=tools[1:2], tool_choice={"type": "any"}).chat.tools == []


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        ({"type": "auto"}, "auto", True),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "none", "name": None}, "none", True),
        ({"type": "tool", "name": "add"}, {"type": "function", "function": {"name": "add"}}, True),
    ],
)
def test_which_tools_may_be_called(choice: dict[str, object], expected: object, parallel: bool) -> None:
    chat = converted(tools=[ADD], tool_choice=choice).chat
    assert (chat.tool_choice, chat.parallel_tool_calls) == (expected, parallel)


def test_thinking_effort_and_form_of_the_answer() -> None:
    for kind, expected in (("enabled", True), ("adaptive", True), ("disabled", False)):
        chat = converted(thinking={"type": kind, "budget_tokens": 1024}).chat
        assert chat.template_kwargs == {"enable_thinking": expected}
    assert converted().chat.template_kwargs == {}
    schema = {"type": "object"}
    chat = converted(output_config={"effort": "high", "format": {"type": "json_schema", "schema": schema}}).chat
    assert (chat.reasoning_effort, chat.schema) == ("high", schema)


def test_generation_parameters_are_passed_on_by_anthropics_and_our_names() -> None:
    found = converted(
        temperature=0.5, top_k=5, top_p=0.9, min_p=0.1, stop_sequences=["END"], stream=True, metadata={"user_id": "u"},
        context_management={"edits": []}, service_tier="auto", speed="fast", n=3, logprobs=True, mcp_servers=[{}],
    )  # fmt: skip
    extra = found.chat.model_extra or {}
    assert {name: extra[name] for name in ("max_tokens", "temperature", "top_k", "top_p", "min_p")} == {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_k": 5,
        "top_p": 0.9,
        "min_p": 0.1,
    }
    assert (found.chat.stops, found.chat.n, "speed" in extra) == (["END"], 1, False)
    assert found.ignored == ("n", "logprobs")
    assert found.report(["enable_thinking", "mcp_servers"]) == ["n", "logprobs", "thinking", "mcp_servers"]


def test_how_long_the_model_stays_is_passed_on() -> None:
    assert converted(keep_alive="5m").chat.kept_seconds == 300
    assert converted(ttl=7).chat.kept_seconds == 7


def block(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


def answer_block(**fields: Any) -> dict[str, Any]:
    return {"messages": [*HELLO, {"role": "assistant", "content": [fields]}, *HELLO]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": None}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"model": "\ud800"}, "model"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    (block(type="text"), "messages[0].content[0].text"),
    (block(type="tool_result"), "messages[0].content[0].tool_use_id"),
    (block(type="tool_result", tool_use_id="t", content=5), "messages[0].content[0].content"),
    (block(type="tool_result", tool_use_id="t", content=[5]), "messages[0].content[0].content[0]"),
    (block(type="image"), "messages[0].content[0].source"),
    (block(type="image", source={"type": "base64", "data": "x"}), "messages[0].content[0].source.media_type"),
    (block(type="search_result", content="x"), "messages[0].content[0].content"),
    (answer_block(type="tool_use", id="t", name="f", input="{}"), "messages[1].content[0].input"),
    (answer_block(type="tool_use", name="f", input={}), "messages[1].content[0].id"),
    (answer_block(type="thinking"), "messages[1].content[0].thinking"),
    ({"system": [{"type": "text"}]}, "system[0].text"),
    ({"system": 5}, "system"),
    ({"tools": "add"}, "tools"),
    ({"tools": [{"name": "add"}]}, "tools[0].input_schema"),
    ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
    ({"tools": [{**ADD, "description": 5}]}, "tools[0].description"),
    ({"tool_choice": {"type": "some"}}, "tool_choice"),
    ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "subtract"}}, "tool_choice.name"),
    ({"thinking": {"type": "maybe"}}, "thinking"),
    ({"thinking": True}, "thinking"),
    ({"output_config": {"effort": "huge"}}, "output_config"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config"),
    ({"stop_sequences": "END"}, "stop_sequences"),
    ({"stream": "yes"}, "stream"),
    ({"chat_template_kwargs": 5}, "chat_template_kwargs"),
]


def test_invalid_requests_are_refused_by_the_path_of_the_fault(subtests: pytest.Subtests) -> None:
    for fields, path in REFUSED:
        with subtests.test(fields=ascii(fields)):
            with pytest.raises(OptionError) as refused:
                converted(**fields)
            assert refused.value.option == path
            assert all(refused.value.say(language) for language in ("en", "zh"))


def test_errors_and_reports_of_the_chat_completion_have_the_paths_of_the_request() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "x"}, picture]}
    turn = {"role": "user", "content": [result, {"type": "text", "text": "y"}, picture]}
    search = {"type": "web_search_20250305", "name": "web_search"}
    found = converted(system="Be brief.", messages=[*HELLO, turn], tools=[search, ADD])
    assert [one.role for one in found.chat.messages] == ["system", "user", "tool", "user"]
    paths = {
        "messages[0].content": "system",
        "messages[1].content[0]": "messages[0]",
        "messages[2].content": "messages[1]",
        "messages[3].content[0].image_url": "messages[1].content[0]",
        "messages[3].content[1]": "messages[1].content[1]",
        "messages[3].content[2]": "messages[1].content[2]",
        "tools[0].function.strict": "tools[1].strict",
        "temperature": "temperature",
        f"tools[{'9' * 5000}]": f"tools[{'9' * 5000}]",  # a field that a client has made up
    }
    assert {path: found.origins.path(path) for path in paths} == paths
    assert found.report(["tools[0].function.strict"]) == ["tools[0]", "tools[1].strict"]
    with pytest.raises(OptionError) as refused:
        converted(tools=[search, {**ADD, "name": "a b"}])
    assert refused.value.option == "tools[1]"


def test_what_would_have_to_be_fetched_or_read_elsewhere_is_refused(subtests: pytest.Subtests) -> None:
    for kind in ("url", "file"):
        with subtests.test(kind=kind), pytest.raises(Unsupported, match=r"messages\[0\].content\[0\].source"):
            converted(**block(type="image", source={"type": kind, "url": "https://x", "file_id": "f"}))
    for kind in ("url", "base64", "file"):
        with subtests.test(kind=kind), pytest.raises(Unsupported, match="document"):
            converted(**block(type="document", source={"type": kind, "url": "https://x", "data": "x", "file_id": "f"}))


def test_blocks_of_other_kinds_are_left_out_and_reported() -> None:
    found = converted(**block(type="container_upload", file_id="f"))
    assert found.ignored == ("messages[0].content[0]",)
    found = converted(**answer_block(type="server_tool_use", id="s", name="web_search", input={}))
    assert found.ignored == ("messages[1].content[0]",)


def test_pictures_in_an_answer_are_left_out_and_reported() -> None:
    found = converted(**answer_block(type="image", source={"type": "base64", "media_type": "image/png", "data": PIXEL}))
    assert found.ignored == ("messages[1].content[0]",)
