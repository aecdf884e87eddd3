"""The answer to a chat request has a form, and llguidance lets only texts of that form through."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from modules.api.answer_forms import Thought, answer_form, text_then
from modules.api.schemas import ChatRequest
from modules.chat.prompt import ChatPrompt
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.chat.tools.call_format import Frame
from modules.chat.tools.generic import GENERIC_CALLS
from modules.chat.tools.marked_format import MarkedCalls
from modules.chat.tools.probing import ToolSupport
from modules.chat.tools.tool import Tool
from modules.chat.tools.use import ToolUse
from modules.core.prompt import Prompt
from modules.core.reasoning import ReasoningMarkers
from tests.support.token_grammars import matches

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llguidance") is None, reason="llguidance is not installed")

A = '<tool_call>\n{"name": "a", "arguments": {"x": 1}}\n</tool_call>'
ODD = A.replace("1", '"one"')
B = '<tool_call>\n{"name": "b", "arguments": {}}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"y": {"const": 1}}, "required": ["y"], "additionalProperties": False}


def request_of(strict: bool = False, **fields: Any) -> ChatRequest:
    parameters = {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False}
    tagged = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    tools = [
        {"type": "function", "function": {"name": "a", "parameters": parameters, "strict": strict}},
        {"type": "function", "function": {"name": "b", "parameters": tagged}},
    ]
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], "tools": tools} | fields)


def use_of(request: ChatRequest) -> ToolUse:
    tools = [Tool(one.name, parameters=one.parameters, strict=one.strict) for one in request.functions]
    return ToolUse(tuple(tools), ToolSupport(calls=GENERIC_CALLS))


def allowed(request: ChatRequest, *texts: str) -> list[bool]:
    form = answer_form(request, use_of(request), Thought())
    return [form.grammar is None or matches(form.grammar, text) for text in texts]


def test_a_schema_alone_is_the_form_of_the_answer() -> None:
    request = ChatRequest.model_validate(
        {"messages": [{"role": "user", "content": "Hi"}], "response_format": {"type": "json_object"}}
    )
    form = answer_form(request, None, Thought())
    assert (form.grammar, form.field) == (["json", {"type": "object"}], "response_format")


def test_a_required_call_is_all_of_the_answer(subtests: pytest.Subtests) -> None:
    b = {"type": "function", "function": {"name": "b"}}
    cases: list[tuple[Any, list[bool]]] = [
        ("auto", [True] * 6),
        ("none", [True] * 6),
        ("required", [False, True, True, True, False, False]),
        (b, [False, False, True, False, False, False]),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [b]}},
            [False, False, True, False, False, False],
        ),
    ]
    for choice, expected in cases:
        with subtests.test(choice=str(choice)):
            assert allowed(request_of(tool_choice=choice), "Hello", A, B, f"{A}\n{B}", f"Hi{A}", ODD) == expected


def test_without_parallel_calls_an_answer_ends_after_the_first() -> None:
    texts = ("Hello", A, f"Well: {A}", f"{A}\n{B}", f"{A} Done")
    assert allowed(request_of(parallel_tool_calls=False), *texts) == [True, True, True, False, False]
    required = request_of(parallel_tool_calls=False, tool_choice="required")
    assert allowed(required, *texts) == [False, True, False, False, False]


def test_the_arguments_of_strict_tools_follow_their_schema_without_being_required() -> None:
    assert allowed(request_of(strict=True), "Hello", A, ODD, f"Hi {A}\n{B}") == [True, True, False, True]
    assert answer_form(request_of(strict=True), use_of(request_of(strict=True)), Thought()).ignored == ()


def test_an_answer_is_calls_or_json_if_both_are_asked_for() -> None:
    request = request_of(response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}})
    assert allowed(request, "Hello", A, '{"y": 1}', '{"y": 2}') == [False, True, True, False]


def test_what_llguidance_lacks_is_done_without_for_tools_that_are_not_strict() -> None:
    twice = B.replace("{}", '{"tags": [1, 1]}')
    assert allowed(request_of(tool_choice="required"), twice) == [True]


def test_a_call_has_no_arguments_that_its_schema_does_not_name_unless_it_says_so(subtests: pytest.Subtests) -> None:
    more = B.replace("{}", '{"more": 1}')
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"properties": {"tags": {}}}, False),
        ({"additionalProperties": True}, True),
        ({"properties": {"tags": {}}, "additionalProperties": {"type": "integer"}}, True),
        ({"anyOf": [{"required": ["more"]}, {"required": ["less"]}]}, True),
    ]
    for parameters, expected in cases:
        tools = [{"type": "function", "function": {"name": "b", "parameters": parameters}}]
        with subtests.test(parameters=parameters):
            assert allowed(request_of(tools=tools, tool_choice="required"), more) == [expected]


# -- thoughts ----------------------------------------------------------------------------------------------------------

TEMPLATES = ChatTemplates()
THINKS = (
    "{% for m in messages %}{{ m.role }}: "
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}\n{% endfor %}"
)
TAGS = ReasoningMarkers("<think>", "</think>")
FINAL = "<|channel|>final<|message|>"
CHANNELS = ReasoningMarkers("<|channel|>analysis<|message|>", "<|message|>", (FINAL,))
ANSWER = ["json", {"type": "object"}]


def thought_of(text: str, source: str = THINKS, *, inside: bool = False) -> Thought:
    prompt = ChatPrompt(Prompt(text), (), (TAGS,), inside=inside, template=ModelTemplate("model", source))
    return Thought.of(TEMPLATES, prompt)


def test_a_thought_may_precede_the_form_of_an_answer() -> None:
    rest = [["until", "</think>"], ["space"]]
    assert thought_of("user: Hi").before(ANSWER) == ["all", ["maybe", ["all", ["text", "<think>"], *rest]], ANSWER]
    assert thought_of("user: Hi<think>", inside=True).before(ANSWER) == ["all", *rest, ANSWER]


def test_a_model_that_has_no_thoughts_or_has_just_ended_one_gives_its_answer() -> None:
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert thought_of("user: Hi", plain).before(ANSWER) == ANSWER
    assert thought_of("user: Hi<think>\n\n</think>\n").before(ANSWER) == ANSWER


def test_a_header_may_precede_json_but_no_call(subtests: pytest.Subtests) -> None:
    thought = "<|channel|>analysis<|message|>Hm<|message|>"
    texts = [before + header + '{"y": 1}' for before in ("", thought) for header in ("", FINAL)]
    calls = [f"{before}{B}" for before in (thought, f"{thought}{FINAL}")]
    schema = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    for request in (request_of(response_format=schema), request_of(response_format=schema, tool_choice="none")):
        with subtests.test(choice=request.choice.mode):
            form = answer_form(request, use_of(request), Thought(CHANNELS))
            assert all(matches(form.grammar, text) for text in texts)
            assert [matches(form.grammar, text) for text in calls] == [request.choice.mode == "auto", False]


# -- text before calls -------------------------------------------------------------------------------------------------


def test_text_ends_where_the_text_begins_that_all_calls_have_in_common(subtests: pytest.Subtests) -> None:
    end = ["text", "!"]
    cases: list[tuple[Any, tuple[str, ...], Any]] = [
        (["text", "[C]x"], ("[C]",), ["all", ["until", "[C]"], ["text", "x"]]),
        (["all", ["text", "<a>"], end], (), ["all", ["until", "<a>!"], ["all", ["text", ""]]]),
        (["all", ["text", "\n<a>"], ["json", {}]], (), ["all", ["until", "<a>"], ["all", ["text", ""], ["json", {}]]]),
        (
            ["any", ["text", "ab"], ["text", "ac"]],
            (),
            ["all", ["until", "a"], ["any", ["text", "b"], ["text", "c"]]],
        ),
        (
            ["many", ["text", "[C]x"]],
            ("[C]",),
            ["all", ["until", "[C]"], ["all", ["text", "x"], ["maybe", ["many", ["text", "[C]x"]]]]],
        ),
    ]
    for node, openers, expected in cases:
        with subtests.test(node=node):
            assert text_then(node, openers) == ["any", expected, ["rest"]]
    for node in (["any", ["text", "a"], ["text", "b"]], ["maybe", end], ["json", {}]):
        assert text_then(node, ("[C]",)) is None


def test_strict_tools_are_reported_as_ignored_where_no_text_begins_all_calls() -> None:
    request = request_of(strict=True)
    unmarked = MarkedCalls(Frame("", "", "", parallel=False), "[ARGS]")  # the names are all that calls begin with
    use = ToolUse(use_of(request).tools, ToolSupport(calls=unmarked))
    form = answer_form(request, use, Thought())
    assert (form.grammar, form.ignored) == (None, ("tools[0].function.strict",))
