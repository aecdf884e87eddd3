"""Tools, calls and results become text for models whose templates do not know them."""

from __future__ import annotations

from modules.chat.tools.generic import (
    GENERIC_CALLS,
    arguments_text,
    calls_as_text,
    instructions,
    result_as_text,
    with_instructions,
)
from modules.chat.tools.tool import Tool

NOW = Tool("now", "Tell the time.")
CALL = {"id": "1", "type": "function", "function": {"name": "now", "arguments": {"utc": True}}}
WRITTEN = '<tool_call>\n{"name": "now", "arguments": {"utc": true}}\n</tool_call>'


def test_the_instructions_have_each_tool_on_a_line_and_the_form_of_a_call() -> None:
    text = instructions([NOW, Tool("go", "行く", {"type": "object"})], GENERIC_CALLS)
    assert '{"name": "now", "description": "Tell the time.", "parameters": {}}\n' in text
    assert '"description": "行く"' in text
    assert '<tool_call>\n{"name": "name_of_the_tool", "arguments": {' in text


def test_the_instructions_join_the_system_message() -> None:
    user = {"role": "user", "content": "Hi"}
    assert with_instructions([user], "Tools.") == [{"role": "system", "content": "Tools."}, user]
    assert with_instructions([], "Tools.") == [{"role": "system", "content": "Tools."}]
    system = {"role": "developer", "content": "Be brief."}
    assert with_instructions([system, user], "Tools.")[0] == {"role": "developer", "content": "Be brief.\n\nTools."}
    assert with_instructions([{"role": "system", "content": ""}], "Tools.")[0]["content"] == "Tools."
    parts = {"role": "system", "content": [{"type": "image", "id": "x"}]}
    assert with_instructions([parts], "Tools.")[0]["content"][1:] == [{"type": "text", "text": "Tools."}]


def test_calls_follow_the_text_of_their_message() -> None:
    message = {"role": "assistant", "content": "Well.", "tool_calls": [CALL], "reasoning_content": "why"}
    changed = {"role": "assistant", "content": f"Well.\n{WRITTEN}", "reasoning_content": "why"}
    assert calls_as_text(message, GENERIC_CALLS) == changed
    assert calls_as_text({**message, "content": None}, GENERIC_CALLS)["content"] == WRITTEN
    assert calls_as_text({"role": "assistant", "content": "a"}, GENERIC_CALLS) == {"role": "assistant", "content": "a"}


def test_results_are_what_the_user_says() -> None:
    assert result_as_text({"role": "tool", "content": "noon", "tool_call_id": "1"}) == {
        "role": "user",
        "content": "<tool_response>\nnoon\n</tool_response>",
    }
    picture = {"type": "image", "id": "x"}
    assert result_as_text({"role": "tool", "content": [picture]})["content"][1] == picture


def test_arguments_are_json_text() -> None:
    assert arguments_text({"name": "now", "arguments": {"utc": True}}) == '{"utc": true}'
    assert arguments_text({"name": "now", "arguments": '{"a": 1}'}) == '{"a": 1}'
    assert arguments_text({"name": "now"}) == "{}"
