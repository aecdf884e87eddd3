"""Conversations with tools are adapted to templates that know tools, some of them, or none."""

from __future__ import annotations

import dataclasses

import pytest

from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.chat.tools.tool import Tool
from modules.chat.tools.use import ToolUse
from modules.core.paths import ROOT
from modules.core.reasoning import ReasoningParser
from tests.support.template_table import CHATML
from tests.support.tool_replies import STYLES, source_of
from tests.support.tool_replies import use_of as style_use

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
FOLDER = ROOT / "tests" / "support" / "family_templates"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Tell the weather.", "parameters": SCHEMA}
WEATHER = Tool("get_weather", "Tell the weather.", SCHEMA, source={"type": "function", "function": FUNCTION})


def call(number: int, arguments: str = '{"city": "Paris"}') -> dict[str, object]:
    function = {"name": "get_weather", "arguments": arguments}
    return {"type": "function", "id": f"call_{number:024}", "function": function}


def result(number: int) -> dict[str, object]:
    return {"role": "tool", "content": f"{number} degrees", "tool_call_id": f"call_{number:024}"}


QUESTION = {"role": "user", "content": "How warm is it?"}
CONVERSATION = [
    QUESTION,
    {"role": "assistant", "content": "", "tool_calls": [call(21), call(22)]},
    result(21),
    result(22),
]


def use_of(source: str, tools: tuple[Tool, ...] = (WEATHER,)) -> tuple[ToolUse, ChatTemplates, ModelTemplate]:
    templates, template = ChatTemplates(), ModelTemplate("model", source, special_tokens=TOKENS)
    return ToolUse.of(templates, template, tools), templates, template


def prompt(name: str) -> str:
    use, templates, template = use_of((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))
    return templates.render(template, use.messages(CONVERSATION), template_kwargs=use.template_kwargs)


def test_a_template_that_takes_everything_gets_the_conversation_unchanged() -> None:
    use, _, _ = use_of((FOLDER / "qwen-3.jinja").read_text(encoding="utf-8"))
    named = [{**message, "name": "get_weather"} if message["role"] == "tool" else message for message in CONVERSATION]
    assert use.messages(CONVERSATION) == named
    assert use.template_kwargs == {"tools": [WEATHER.source]}
    assert "</tool_call>" in use.visible


def test_a_template_without_tools_gets_them_in_the_system_message() -> None:
    use, _, _ = use_of(CHATML)
    assert use.template_kwargs == {}
    system, question, calling, *results = use.messages(CONVERSATION)
    assert system["role"] == "system" and '"name": "get_weather"' in system["content"]
    assert question == QUESTION
    written = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert calling == {"role": "assistant", "content": f"{written}\n{written}"}
    assert results[0] == {"role": "user", "content": "<tool_response>\n21 degrees\n</tool_response>"}
    with_system = [{"role": "system", "content": "Be brief."}, *CONVERSATION]
    assert use.messages(with_system)[0]["content"].startswith("Be brief.\n\nYou can call these tools.")


def test_a_template_for_one_call_at_a_time_gets_several_one_after_the_other() -> None:
    text = prompt("llama-3")
    assert text.index("21 degrees") < text.rindex('"name": "get_weather"') < text.index("22 degrees")


def test_ids_become_short_where_a_template_takes_no_others() -> None:
    text = prompt("mistral-v3")
    assert "21 degrees" in text and "call_" not in text.replace("call_id", "")


def test_a_call_that_a_format_writes_is_read_from_a_reply() -> None:
    use, _, _ = use_of(CHATML)
    parser = use.parser(ReasoningParser(()))
    assert [*parser.feed(use.calls.text([("get_weather", "{}")])), *parser.end()] == [
        ("call", "get_weather"),
        ("arguments", "{}"),
    ]


def test_the_template_for_tools_is_taken_if_there_are_tools() -> None:
    templates = ChatTemplates()
    named = {"default": CHATML, "tool_use": (FOLDER / "qwen-3.jinja").read_text(encoding="utf-8")}
    template = ModelTemplate("model", CHATML, named, TOKENS)
    assert ToolUse.of(templates, template, [WEATHER]).support.describes
    assert ToolUse.of(templates, template, []).support.calls is None


def refusing(condition: str) -> str:
    """Return a template that refuses tools that have an argument for which the condition holds."""
    refusal = (
        "{% for t in tools or [] %}{% for name, p in t.function.parameters.properties.items() %}{% if CONDITION %}"
    )
    refusal += "{{ raise_exception('not this one') }}{% endif %}{% endfor %}{% endfor %}"
    return refusal.replace("CONDITION", condition) + source_of("qwen-3")


FIND = {"name": "find", "parameters": {"type": "object", "properties": {"what": {}, "all": {"anyOf": []}}}}
FINDING = Tool("find", "Find it.", FIND["parameters"], source={"type": "function", "function": FIND})


def test_a_template_that_refuses_schemas_gets_simple_ones() -> None:
    use, templates, template = use_of(refusing("not p.type"), (WEATHER, FINDING))
    weather, find = use.template_kwargs["tools"]
    assert weather["function"]["parameters"]["required"] == ["city"]
    assert find["function"]["parameters"]["properties"]["what"] == {"type": "string", "description": ""}
    text = templates.render(template, use.messages(CONVERSATION), template_kwargs=use.template_kwargs)
    assert "Find it." in text and "22 degrees" in text
    assert use_of(refusing("not p.type"))[0].template_kwargs == {"tools": [WEATHER.source]}


def test_tools_that_a_template_refuses_are_described_in_the_system_message() -> None:
    use, templates, template = use_of(refusing("name == 'what'"), (WEATHER, FINDING))
    assert use.template_kwargs == {} and use.support.calls is not None
    text = templates.render(template, use.messages(CONVERSATION), template_kwargs=use.template_kwargs)
    assert "Find it." in text and "22 degrees" in text


def test_a_call_keeps_its_thought_or_its_text_where_a_template_takes_one_of_them() -> None:
    source = (FOLDER / "gpt-oss.jinja").read_text(encoding="utf-8")
    condition = "{%- if 'tool_calls' in message %}"
    refusal = "{%- if message.content and message.thinking %}{{- raise_exception('both') }}{%- endif %}"
    source = source.replace(condition, condition + refusal)
    use, templates, template = use_of(source)
    calling = {"role": "assistant", "content": "I look.", "reasoning_content": "Where?", "tool_calls": [call(21)]}
    text = templates.render(
        template, use.messages([QUESTION, calling, result(21)]), template_kwargs=use.template_kwargs
    )
    assert "Where?\n\nI look.<|end|>" in text


def test_text_and_calls_become_two_messages_where_a_call_has_no_text() -> None:
    source = source_of("deepseek-r1-no-text")
    use, templates, template = use_of(source)
    calling = {"role": "assistant", "content": "I look.", "tool_calls": [call(21), call(22)]}
    text = templates.render(template, use.messages([QUESTION, calling, result(21), result(22)]))
    assert "I look.<｜end▁of▁sentence｜><｜Assistant｜><｜tool▁calls▁begin｜>" in text
    assert text.count("get_weather") == 3 and "22 degrees" in text  # one of them is in the description


def test_ids_are_names_where_a_template_writes_no_others() -> None:
    use, templates, template = use_of(source_of("kimi-k2-ids"))
    text = templates.render(template, use.messages(CONVERSATION), template_kwargs=use.template_kwargs)
    assert "<|tool_call_begin|>functions.get_weather:1<|tool_call_argument_begin|>" in text
    assert "## Return of functions.get_weather:1\n22 degrees" in text


def test_calls_that_a_template_only_describes_are_in_the_text() -> None:
    use, templates, template = use_of(source_of("granite-3"))
    text = templates.render(template, use.messages(CONVERSATION), template_kwargs=use.template_kwargs)
    assert '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name"' in text
    assert "<|start_of_role|>tool<|end_of_role|>22 degrees" in text and "available_tools" in text


def test_arguments_that_are_no_object_are_left_out_where_calls_are_written_as_text(subtests: pytest.Subtests) -> None:
    """The client sends back what a model has written, whatever it is."""
    for name in STYLES:
        support = dataclasses.replace(style_use(name).support, calls_as_text=True)
        for arguments in ("not json", "[1]", '""', "5", ""):
            with subtests.test(name, arguments=arguments):
                conversation = [QUESTION, {"role": "assistant", "content": "So:", "tool_calls": [call(1, arguments)]}]
                *_, answer = ToolUse((WEATHER,), support).messages(conversation)
                assert "tool_calls" not in answer and "get_weather" in str(answer["content"])
