"""Which variables a template reads is found by what they change in its prompts."""

from __future__ import annotations

from typing import Any

import pytest

from modules.chat.errors import TemplateStopped
from modules.chat.templates import ChatTemplates, ModelTemplate

TEMPLATES = ChatTemplates()
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
CASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "no variable": (PLAIN, []),
    "a switch that is on": (
        PLAIN + "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}",
        [{"name": "enable_thinking", "kind": "bool", "default": True}],
    ),
    "a switch that is off": (
        PLAIN + "{% if thinking %}<think>{% else %}</think>{% endif %}",
        [{"name": "thinking", "kind": "bool", "default": False}],
    ),
    "a word in the prompt": (
        PLAIN + "{{ 'Reasoning: ' + reasoning_effort | default('medium') }}",
        [{"name": "reasoning_effort", "kind": "choice", "default": "medium", "choices": ["low", "medium", "high"]}],
    ),
    "words that are compared": (
        PLAIN + "{% if reasoning_effort == 'high' %}H{% elif reasoning_effort == 'max' %}M{% endif %}",
        [{"name": "reasoning_effort", "kind": "choice", "default": None, "choices": ["high", "max"]}],
    ),
    "words that are refused": (
        PLAIN + "{% set e = reasoning_effort | default('low') %}{% if e not in ['low', 'high'] %}"
        "{{ raise_exception('no') }}{% endif %}{{ e }}",
        [{"name": "reasoning_effort", "kind": "choice", "default": "low", "choices": ["low", "high"]}],
    ),
    "a switch that is refused": (PLAIN + "{% if enable_thinking %}{{ raise_exception('no') }}{% endif %}", []),
    "a variable of earlier thoughts": (
        "{% for m in messages %}{{ m.content }}{% if preserve_thinking %}{{ m.thinking }}{% endif %}{% endfor %}",
        [{"name": "preserve_thinking", "kind": "bool", "default": False}],
    ),
    "a variable beside another": (
        PLAIN + "{% if enable_thinking %}think {{ reasoning_effort }}{% endif %}",
        [
            {"name": "enable_thinking", "kind": "bool", "default": False},
            {"name": "reasoning_effort", "kind": "choice", "default": None, "choices": ["low", "medium", "high"]},
        ],
    ),
    "a text": (
        "{{ model_identity or 'You are a model.' }}" + PLAIN,
        [{"name": "model_identity", "kind": "text", "default": None}],
    ),
    "a name that only occurs": (PLAIN + "{# enable_thinking #}{% set thinking = true %}{{ 'reasoning_effort' }}", []),
    "a template that refuses everything": ("{{ raise_exception('no') }}", []),
}


def test_the_variables_that_a_template_reads_are_found(subtests: pytest.Subtests) -> None:
    for name, (source, expected) in CASES.items():
        with subtests.test(name):
            assert [one.to_json() for one in TEMPLATES.variables(ModelTemplate("tiny", source))] == expected


def test_a_hostile_template_is_stopped_here_as_well() -> None:
    with pytest.raises(TemplateStopped):
        TEMPLATES.variables(ModelTemplate("tiny", PLAIN + "{% if date_string %}{{ 'a' * 10 ** 9 }}{% endif %}"))
