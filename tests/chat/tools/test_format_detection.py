"""The format of a template's calls is found by rendering calls of a probe."""

from __future__ import annotations

import importlib.util
import json

import pytest

from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.chat.tools.use import ToolUse
from modules.core.reasoning import KNOWN_MARKERS, ReasoningParser
from tests.chat.tools.test_parser import parts_of, split
from tests.support.template_table import CHATML
from tests.support.token_grammars import matches
from tests.support.tool_replies import STYLES, TOOLS, WEATHER, Call, use_of

KINDS = {
    "qwen-3": "JsonCalls",
    "llama-3": "JsonCalls",
    "mistral-v3": "JsonCalls",
    "mistral-v7": "MarkedCalls",
    "nemotron-nano": "JsonCalls",
    "granite-3": "JsonCalls",
    "qwen-3-coder": "XmlCalls",
    "deepseek-r1": "MarkedCalls",
    "deepseek-r1-no-text": "MarkedCalls",
    "deepseek-v3.1": "MarkedCalls",
    "kimi-k2": "MarkedCalls",
    "glm-4": "XmlCalls",
    "minimax-m2": "XmlCalls",
    "gemma-4": "GemmaCalls",
    "gpt-oss": "HarmonyCalls",
}
ONE_AT_A_TIME = {"llama-3", "deepseek-r1", "gpt-oss"}
CALLS: list[Call] = [("get_weather", {"city": "Paris", "days": 2}), ("now", {})]


def test_each_family_s_format_is_found(subtests: pytest.Subtests) -> None:
    assert set(KINDS) == set(STYLES)
    for name, kind in KINDS.items():
        with subtests.test(name):
            calls = use_of(name).calls
            assert type(calls).__name__ == kind
            assert calls.frame.parallel == (name not in ONE_AT_A_TIME)


def test_calls_are_written_as_models_write_them(subtests: pytest.Subtests) -> None:
    for name, style in STYLES.items():
        calls = CALLS if name not in ONE_AT_A_TIME | {"kimi-k2"} else CALLS[:1]  # Kimi numbers its calls
        with subtests.test(name):
            written = use_of(name).calls.text([(tool, json.dumps(arguments)) for tool, arguments in calls])
            # The template of the tests has JSON texts, those of Gemma special tokens for quotes.
            assert written == style.calls(calls).replace('<|"|>', '"' if name == "gemma-4" else '<|"|>')


def test_no_format_is_found_where_a_template_writes_no_calls() -> None:
    assert use_of("phi-3").support.calls is None
    support = ToolUse.of(ChatTemplates(), ModelTemplate("model", CHATML), TOOLS).support
    assert (support.describes, support.calls, support.results) == (False, None, True)


MESSAGES = "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
DESCRIBED = "{% for t in tools or [] %}{{ t.function | tojson }}{% endfor %}"
END = "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def format_of(call: str) -> ToolUse:
    """Return how tools are used with a template that writes each call as `call`, where f is the function."""
    templates = ChatTemplates()
    source = f"{DESCRIBED}{MESSAGES}{{% set f = c.function %}}{call}{END}"
    use = ToolUse.of(templates, ModelTemplate("model", source), TOOLS)
    templates.close()
    return use


def test_a_template_whose_calls_are_like_none_that_are_known_has_no_format(subtests: pytest.Subtests) -> None:
    arguments = "{% for k, v in f.arguments.items() %}"
    for call in (
        """<call>{"do": "{{ f.name }}", "with": {{ f.arguments | tojson }}}</call>""",
        """<call>{{ f.name }}</call>""",
        f"""<call>{{{{ f.name }}}}{arguments}<k>{{{{ k }}}}</k>{{{{ '{{' }}}}{{{{ v }}}}</v>{{% endfor %}}</call>""",
    ):
        with subtests.test(call):
            support = format_of(call).support
            assert support.describes and support.calls is None


def test_the_types_that_deepseek_writes_beside_an_argument_count(subtests: pytest.Subtests) -> None:
    """In the manner of DeepSeek V3.2: a text has `string="true"`, anything else `string="false"`."""
    use = format_of(
        """<calls><invoke name="{{ f.name }}">{% for k, v in f.arguments.items() %}<parameter name="{{ k }}" """
        """string="{{ 'true' if v is string else 'false' }}">{{ v if v is string else v | tojson }}</parameter>"""
        """{% endfor %}</invoke></calls>"""
    )
    assert type(use.calls).__name__ == "XmlCalls"
    cases: list[Call] = [
        ("get_weather", {"city": "Paris", "days": 2}),
        ("get_weather", {"anything": "7"}),
        ("get_weather", {"anything": 7}),
        ("other", {"x": "true", "y": True, "z": [1, "2"]}),
    ]
    for call in cases:
        with subtests.test(call):
            pieces, faults = split(use, [use.calls.text([(call[0], json.dumps(call[1]))])])
            assert (parts_of(pieces), faults) == ([("call", *call)], [])


def test_nested_arguments_are_written_as_gemma_writes_them_and_read_again() -> None:
    use, arguments = use_of("gemma-4"), {"city": "Paris", "tags": ["a", "b"], "details": {"x": {"y": [1, True]}}}
    written = use.calls.text([("get_weather", json.dumps(arguments))])
    assert 'tags:["a","b"],details:{x:{y:[1,true]}}' in written.replace('<|"|>', '"')
    assert split(use, [written])[1] == [] and parts_of(split(use, [written])[0]) == [("call", "get_weather", arguments)]


def test_what_a_model_should_not_write_after_a_call_ends_its_reply() -> None:
    assert use_of("glm-4").stop == ("<|observation|>",)
    assert use_of("qwen-3").stop == ()


@pytest.mark.skipif(importlib.util.find_spec("llguidance") is None, reason="llguidance is not installed")
def test_the_grammar_of_calls_takes_calls_of_these_tools_alone(subtests: pytest.Subtests) -> None:
    for name in KINDS:
        if "deepseek" in name:  # the tokenizer of this test has only ASCII
            continue
        use = use_of(name)
        one, several = use.grammar([WEATHER], parallel=False), use.grammar(TOOLS, parallel=True)

        def written(*calls: Call, use: ToolUse = use) -> str:
            return use.calls.text([(tool, json.dumps(arguments)) for tool, arguments in calls])

        with subtests.test(name):
            paris, now = CALLS
            assert matches(one, written(paris)) and matches(several, written(paris)) and matches(several, written(now))
            assert matches(several, written(paris, now)) == use.calls.frame.parallel
            assert not matches(one, written(paris, paris))
            assert not matches(one, written(now)) and not matches(several, written(("other", {})))
            assert not matches(one, written(("get_weather", {"days": 2})))
            assert not matches(one, written(("get_weather", {"city": "Paris", "days": "many"})))
            assert not matches(one, "Hello.")


def test_what_a_grammar_allows_is_read_again(subtests: pytest.Subtests) -> None:
    for name in KINDS:
        use = use_of(name)
        with subtests.test(name):
            pieces, faults = split(use, [use.calls.text([("get_weather", '{"city": "Paris", "days": 2}')])])
            assert (parts_of(pieces), faults) == ([("call", *CALLS[0])], [])


def test_a_parser_without_openers_passes_text_on() -> None:
    parser = use_of("llama-3").parser(ReasoningParser(KNOWN_MARKERS))
    assert [*parser.feed("So"), *parser.feed(" it is."), *parser.end()] == [("text", "So"), ("text", " it is.")]
