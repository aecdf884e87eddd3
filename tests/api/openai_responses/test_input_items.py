"""Input items of Responses as messages."""

from __future__ import annotations

import pytest

from modules.api.openai_responses.input_items import read_input
from modules.core.errors import OptionError, Unsupported, WebUIError

CALL = {"type": "function_call", "call_id": "call_1", "name": "search", "arguments": '{"query": "x"}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "2 files"}


def test_a_text_is_a_question_after_the_instructions() -> None:
    read = read_input("Hello", "Be brief.")
    assert read.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    assert read.origins == ["instructions", "input"]


def test_messages_need_no_type_and_their_texts_are_joined() -> None:
    parts = [{"type": "input_text", "text": "One"}, {"type": "input_text", "text": "Two"}]
    read = read_input(
        [{"role": "developer", "content": "Rules"}, {"type": "message", "role": "user", "content": parts}]
    )
    assert read.messages == [{"role": "developer", "content": "Rules"}, {"role": "user", "content": "One\nTwo"}]


def test_what_the_assistant_thought_said_and_called_is_one_message() -> None:
    items = [
        {"role": "user", "content": "Where?"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Look it up."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I search."}]},
        CALL,
        {**CALL, "call_id": "call_2", "arguments": ""},
        OUTPUT,
        {**OUTPUT, "call_id": "call_2", "output": [{"type": "input_text", "text": "none"}]},
    ]
    read = read_input(items)
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"query": "x"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "search", "arguments": "{}"}},
    ]
    assert read.messages[1:] == [
        {"role": "assistant", "content": "I search.", "reasoning_content": "Look it up.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "2 files", "name": "search"},
        {"role": "tool", "tool_call_id": "call_2", "content": "none", "name": "search"},
    ]
    assert read.origins == ["input[0]", "input[2]", "input[5]", "input[6]"]


def test_the_thought_itself_counts_more_than_its_summary() -> None:
    thought = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "Short"}],
        "content": [{"type": "reasoning_text", "text": "Long"}],
        "encrypted_content": "gAAA",
    }
    assert read_input([thought, CALL]).messages[0]["reasoning_content"] == "Long"


def test_a_thought_that_only_openai_can_read_is_left_out() -> None:
    messages = read_input([{"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}, CALL]).messages
    assert "reasoning_content" not in messages[0]


def test_a_custom_tool_was_called_with_one_text() -> None:
    items = [
        {"type": "custom_tool_call", "call_id": "call_1", "name": "apply_patch", "input": 'a "patch"'},
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": "Done"},
    ]
    call, output = read_input(items).messages
    assert call["tool_calls"][0]["function"] == {"name": "apply_patch", "arguments": '{"input": "a \\"patch\\""}'}
    assert (output["role"], output["name"]) == ("tool", "apply_patch")


def test_a_call_in_a_namespace_has_the_name_that_its_tool_has() -> None:
    (message,) = read_input([{**CALL, "namespace": "files"}]).messages
    assert message["tool_calls"][0]["function"]["name"] == "files__search"


def test_unknown_items_are_left_out_and_reported() -> None:
    items = [{"type": "web_search_call", "id": "ws_1"}, {"role": "user", "content": "Hi"}, {"type": "ghost"}, {}]
    read = read_input(items)
    assert (len(read.messages), read.ignored) == (1, ["input[0]", "input[2]", "input[3]"])


def test_an_image_is_passed_on_with_the_text_around_it() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"}
    (message,) = read_input([{"role": "user", "content": [{"type": "input_text", "text": "What?"}, image]}]).messages
    assert message["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]


def test_a_refusal_is_a_text_and_a_missing_output_is_an_empty_one() -> None:
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]}
    read = read_input([refused, {"type": "function_call_output", "call_id": "call_1", "output": None}])
    assert [message["content"] for message in read.messages] == ["I cannot.", ""]


def test_a_malformed_item_is_refused_by_its_path(subtests: pytest.Subtests) -> None:
    cases: dict[str, dict[str, object]] = {
        "input[0].role": {"role": "tool", "content": "x"},
        "input[0].content": {"role": "user", "content": 5},
        "input[0].content[0]": {"role": "user", "content": ["x"]},
        "input[0].content[0].text": {"role": "user", "content": [{"type": "input_text"}]},
        "input[0].content[0].image_url": {"role": "user", "content": [{"type": "input_image", "file_id": "f"}]},
        "input[0].arguments": {**CALL, "arguments": {"query": "x"}},
        "input[0].name": {"type": "function_call", "call_id": "1", "arguments": "{}"},
        "input[0].call_id": {"type": "function_call_output", "output": "x"},
        "input[0].output": {**OUTPUT, "output": {"content": "x"}},
    }
    for path, item in cases.items():
        with subtests.test(path), pytest.raises(OptionError) as caught:
            read_input([item])
        assert caught.value.option == path


def test_a_part_without_which_the_question_would_be_another_one_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"input\[0\]\.content\[0\].*'input_file'"):
        read_input([{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}])


def test_every_error_is_said_in_both_languages(subtests: pytest.Subtests) -> None:
    items: list[dict[str, object]] = [
        {"role": "user", "content": [{"type": "input_audio"}]},
        {"role": "user", "content": 5},
    ]
    for item in items:
        with subtests.test(str(item)), pytest.raises(WebUIError) as caught:
            read_input([item])
        assert caught.value.say("zh") != caught.value.say("en")
