"""Tools of Responses as those of chat completions."""

from __future__ import annotations

import pytest

from modules.api.openai_responses.tools import OfferedTool, chat_tool_choice, read_tools
from modules.core.errors import OptionError

SEARCH = {"type": "function", "name": "search", "description": "Find files.", "parameters": {"type": "object"}}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'},
}


def test_a_function_is_nested_and_keeps_its_fields() -> None:
    (tool,) = read_tools([{**SEARCH, "strict": True}]).chat
    assert tool == {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Find files.",
            "strict": True,
            "parameters": {"type": "object"},
        },
    }


def test_a_function_without_parameters_takes_none() -> None:
    (tool,) = read_tools([{"type": "function", "name": "now", "parameters": None, "strict": None}]).chat
    assert tool["function"] == {"name": "now", "parameters": {"type": "object", "properties": {}}}


def test_a_custom_tool_is_a_function_with_one_text_that_describes_its_format() -> None:
    tools = read_tools([PATCH])
    parameters = tools.chat[0]["function"]["parameters"]
    assert parameters["required"] == ["input"]
    assert '(lark):\nstart: "*** Begin Patch"' in parameters["properties"]["input"]["description"]
    assert tools.by_name == {"apply_patch": OfferedTool("custom", "apply_patch")}


def test_tools_of_openais_servers_are_left_out_and_reported() -> None:
    tools = read_tools([{"type": "web_search"}, SEARCH, {"type": "local_shell"}])
    assert [tool["function"]["name"] for tool in tools.chat] == ["search"]
    assert (tools.ignored, tools.paths) == (["tools[0]", "tools[2]"], ["tools[1]"])


def test_tools_in_a_namespace_are_called_by_both_names() -> None:
    tools = read_tools(
        [{"type": "namespace", "name": "mcp__files__", "description": "Files", "tools": [SEARCH, PATCH]}]
    )
    assert list(tools.by_name) == ["mcp__files__search", "mcp__files__apply_patch"]
    assert tools.by_name["mcp__files__search"] == OfferedTool("function", "search", "mcp__files__")
    assert OfferedTool("function", "search", "files").called == "files__search"
    assert tools.paths == ["tools[0].tools[0]", "tools[0].tools[1]"]


def test_a_malformed_tool_is_refused_by_its_path(subtests: pytest.Subtests) -> None:
    cases = {
        "tools[0].type": {"name": "search"},
        "tools[0].name": {"type": "function", "function": {"name": "search"}},
        "tools[0].parameters": {**SEARCH, "parameters": "none"},
        "tools[1].name": {"type": "namespace", "tools": []},
        "tools[0].tools": {"type": "namespace", "name": "files", "tools": ["search"]},
        "tools[0].tools[0].name": {"type": "namespace", "name": "files", "tools": [{"type": "function", "name": 1}]},
    }
    for path, tool in cases.items():
        with subtests.test(path), pytest.raises(OptionError) as caught:
            read_tools([SEARCH, tool] if path.startswith("tools[1]") else [tool])
        assert caught.value.option == path


def test_a_choice_names_functions_as_chat_completions_do() -> None:
    tools = read_tools([SEARCH, PATCH])
    named = {"type": "function", "function": {"name": "search"}}
    patch = {"type": "function", "function": {"name": "apply_patch"}}
    assert chat_tool_choice("required", tools) == "required"
    assert chat_tool_choice({"type": "function", "name": "search"}, tools) == named
    assert chat_tool_choice({"type": "custom", "name": "apply_patch"}, tools) == patch
    allowed = [
        {"type": "function", "name": "search"},
        {"type": "web_search"},
        {"type": "custom", "name": "apply_patch"},
    ]
    assert chat_tool_choice({"type": "allowed_tools", "mode": "auto", "tools": allowed}, tools) == {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [named, patch]},
    }
    only_search = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}
    assert chat_tool_choice(only_search, tools) == "none"


def test_a_choice_of_a_tool_that_is_missing_is_refused(subtests: pytest.Subtests) -> None:
    choices = [
        {"type": "web_search"},
        {"type": "function", "name": "serch"},
        {"type": "function"},
        {"type": "allowed_tools", "mode": "any", "tools": []},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "serch"}]},
    ]
    for choice in choices:
        with subtests.test(str(choice)), pytest.raises(OptionError, match="tool_choice"):
            chat_tool_choice(choice, read_tools([SEARCH]))
