"""The tools of a chat request, and the choice between them."""

from __future__ import annotations

from typing import Any

import pytest

from modules.api.response_format import MAX_SCHEMA
from modules.api.schemas import ChatRequest
from modules.api.tool_fields import MAX_TOOLS, ToolChoice
from modules.core.errors import OptionError, Unsupported

PLACE = {"type": "object", "properties": {"place": {"type": "string"}}}


def function(name: str, **fields: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def chat(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields})


def chosen(choice: object) -> tuple[ToolChoice, list[str]]:
    request = chat(tools=[function("a"), function("b")], tool_choice=choice)
    return request.choice, [one.name for one in request.functions]


def test_tools_are_read_in_the_forms_of_both_apis() -> None:
    weather = {"name": "weather", "description": "Look outside", "parameters": PLACE, "strict": True}
    for tool in ({"type": "function", "function": weather}, {"type": "function", **weather}):
        (one,) = chat(tools=[tool]).functions
        assert (one.name, one.description, one.parameters, one.strict) == ("weather", "Look outside", PLACE, True)


def test_a_tool_needs_only_a_name() -> None:
    (one,) = chat(tools=[function("now", description=None, parameters=None, strict=None)]).functions
    assert (one.description, one.parameters, one.strict) == ("", {"type": "object", "properties": {}}, False)


def test_a_tool_that_cannot_be_is_refused_by_name(subtests: pytest.Subtests) -> None:
    cases: list[tuple[str, Any, str]] = [
        ("no list", {"a": 1}, r"tools: .*a list of at most"),
        ("too many", [function(f"f{number}") for number in range(MAX_TOOLS + 1)], r"tools: .*a list of at most"),
        ("no name", [function("")], r"tools\[0\]\.function: .*a name of at most"),
        ("white space", [function("a b")], r"tools\[0\]\.function: .*a name of at most"),
        ("no function", [{"type": "function"}], r"tools\[0\]\.function"),
        ("same names", [function("a"), function("a")], r"tools\[1\]\.function\.name"),
        ("no object", [function("a", parameters={"type": "string"})], r'schema of the type "object"'),
        ("half a character", [function("a", parameters={"properties": {"\ud800": {}}})], "a JSON schema"),
        ("too long", [function("a", parameters={"title": "x" * MAX_SCHEMA})], "at most 64000 bytes"),
    ]
    for title, tools, words in cases:
        with subtests.test(title), pytest.raises(OptionError, match=words):
            chat(tools=tools)


def test_other_types_of_tools_are_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"tools\[1\]: .*not 'web_search'"):
        chat(tools=[function("a"), {"type": "web_search", "filters": {}}])


def test_the_choice_says_which_tools_are_shown_and_may_be_called(subtests: pytest.Subtests) -> None:
    both, only_b = frozenset("ab"), frozenset("b")
    b = {"type": "function", "function": {"name": "b"}}
    cases: list[tuple[object, ToolChoice, list[str]]] = [
        ("auto", ToolChoice("auto", both), ["a", "b"]),
        (None, ToolChoice("auto", both), ["a", "b"]),
        ("none", ToolChoice("none", frozenset()), []),
        ("required", ToolChoice("required", both), ["a", "b"]),
        ("any", ToolChoice("required", both), ["a", "b"]),
        (b, ToolChoice("required", only_b), ["a", "b"]),
        ({"type": "function", "name": "b"}, ToolChoice("required", only_b), ["a", "b"]),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [b]}},
            ToolChoice("auto", only_b),
            ["b"],
        ),
        ({"type": "allowed_tools", "mode": "required", "tools": [b]}, ToolChoice("required", only_b), ["a", "b"]),
    ]
    for choice, expected, shown in cases:
        with subtests.test(choice=str(choice)):
            assert chosen(choice) == (expected, shown)


def test_a_choice_that_cannot_be_is_refused(subtests: pytest.Subtests) -> None:
    for choice in (
        "maybe",
        {"type": "function", "function": {"name": "c"}},
        {"type": "function", "function": "b"},
        {"type": "web_search"},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        {"type": "allowed_tools", "allowed_tools": {"mode": ["auto"], "tools": [{"name": "a"}]}},
        {"type": "allowed_tools"},
        5,
    ):
        with subtests.test(choice=str(choice)), pytest.raises(OptionError, match="tool_choice"):
            chosen(choice)


def test_nothing_can_be_required_without_tools() -> None:
    assert chat(tool_choice="auto").functions == chat(tool_choice="none").functions == []
    with pytest.raises(OptionError, match="tool_choice"):
        chat(tool_choice="required")
