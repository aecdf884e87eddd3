"""The abilities of a template are found out by rendering it, never by reading it."""

from __future__ import annotations

from typing import Any

import pytest

from modules.chat.features import TemplateFeatures
from modules.chat.templates import ALPACA, ChatTemplates, ModelTemplate
from modules.core.reasoning import KNOWN_MARKERS, ReasoningMarkers
from tests.support.template_table import CHATML, TEMPLATES

RENDERER = ChatTemplates()
COMPLETE = TemplateFeatures(developer=False, tool_results=True)
"""The features of a template that prints whatever role a message has."""


def features(source: str) -> TemplateFeatures:
    return RENDERER.features(ModelTemplate("tiny", source, special_tokens={"bos_token": "<s>", "eos_token": "</s>"}))


def changed(**features: Any) -> TemplateFeatures:
    return TemplateFeatures(**{"developer": False, "tool_results": True, **features})


LLAMA_2 = (  # the system message goes into the first question; roles alternate
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system %}{% set text = '<<SYS>>' + system + '<</SYS>>' + m['content'] %}"
    "{% else %}{% set text = m['content'] %}{% endif %}{% if m['role'] == 'user' %}[INST] {{ text | trim }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ text | trim }} </s>{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}<start_of_turn>{{ role }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SILENT = (  # systems and greetings are left out without a word
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% elif m.role == 'assistant' and "
    "not loop.first %}<|assistant|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINKING_ANSWERS = (  # thoughts of earlier answers are shown closed, that of a new one is opened
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
PHI = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}<|{{ m.role }}|>\n{{ m.content }}<|end|>"
    "\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

SOME_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n"
    "</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHANNELS = (  # a thought is shown only in an answer that ends the conversation
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}{% if loop.last and m.thinking and not "
    "add_generation_prompt %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|><|start|>assistant{% endif %}"
    "<|channel|>final{% endif %}<|message|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
UNKNOWN_MARKS = (
    "{% for m in messages %}({{ m.role }}){% if m.reasoning_content %}[M] {{ m.reasoning_content }}[/M]\n[A]{% endif %}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}(assistant){% endif %}"
)
ROLE_MARKS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}{{ m.reasoning_content }}<end><assistant>"
    "{% endif %}{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
THINK, CHANNEL_MARKERS = KNOWN_MARKERS[0], KNOWN_MARKERS[3]

CASES = {
    "ChatML": (CHATML, COMPLETE),
    "Alpaca": (ALPACA, COMPLETE),
    "Llama 2": (
        LLAMA_2,
        changed(
            several_systems=False,
            late_system=False,
            equal_neighbors=False,
            assistant_first=False,
            tool_results=False,
        ),
    ),
    "Gemma": (
        GEMMA,
        changed(
            system=False,
            several_systems=False,
            late_system=False,
            equal_neighbors=False,
            assistant_first=False,
            tool_results=False,
        ),
    ),
    "a silent template": (
        SILENT,
        changed(system=False, several_systems=False, late_system=False, assistant_first=False, tool_results=False),
    ),
    "one system message": (
        TEMPLATES["one system message at the beginning"],
        changed(several_systems=False, late_system=False),
    ),
    "developer": (TEMPLATES["developer"], TemplateFeatures(developer=True, tool_results=False)),
    "parts": (TEMPLATES["parts"], changed(parts=frozenset({"system", "user", "assistant"}))),
    "system in parts": (
        TEMPLATES["system in parts"],
        changed(parts=frozenset({"system"})),
    ),
    "a thought in new answers": (
        TEMPLATES["thinking"],
        changed(open_thought="<think>", markers=THINK, thought_start="<think>\n"),
    ),
    "a thought in all answers": (
        THINKING_ANSWERS,
        changed(open_thought="<think>", reasoning=True, markers=THINK, thought_start="<think>\n"),
    ),
    "a thought in some answers": (
        SOME_THOUGHTS,
        changed(reasoning=True, markers=THINK, thought_start="<think>\n"),
    ),
    "channels": (CHANNELS, changed(markers=CHANNEL_MARKERS, thought_start=CHANNEL_MARKERS.open)),
    "unknown marks": (
        UNKNOWN_MARKS,
        changed(reasoning=True, markers=ReasoningMarkers("[M]", "[/M]", ("[A]",)), thought_start="[M] "),
    ),
    "thoughts between the marks of roles": (ROLE_MARKS, changed(reasoning=True)),
    "no thought if told so": (
        TEMPLATES["a switch for thinking"],
        changed(markers=THINK, thought_start="<think>\n"),
    ),
    "a thought that is closed at once": (
        CHATML + "{% if add_generation_prompt %}<|channel>thought\n<channel|>{% endif %}",
        changed(markers=KNOWN_MARKERS[4], thought_start="<|channel>thought\n"),
    ),
    "arguments of calls as text": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for call in m.tool_calls %}"
        "{{ '(' + call.function.arguments + ')' }}{% endfor %}{% endfor %}",
        changed(text_arguments=True),
    ),
    "a role that looks like a tag": (PHI, changed(tool_results=False)),
    "a template that refuses everything": ("{{ raise_exception('no') }}", TemplateFeatures()),
    "a template that shows nothing": ("nothing", TemplateFeatures()),
    "a broken template": ("{% for %}", TemplateFeatures()),
}


@pytest.mark.parametrize(("source", "expected"), CASES.values(), ids=CASES)
def test_the_features_of_a_template_are_found_out(source: str, expected: TemplateFeatures) -> None:
    assert features(source) == expected


def test_a_template_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    templates = ChatTemplates()
    tiny = ModelTemplate("tiny", CHATML)
    templates.features(tiny)
    requests: list[object] = []
    render = templates._renderer.render

    def counting(*request: Any) -> Any:
        requests.append(request)
        return render(*request)

    monkeypatch.setattr(templates._renderer, "render", counting)
    templates.render(tiny, [{"role": "user", "content": "hi"}])
    assert len(requests) == 1
