"""Chat templates render messages, and malicious ones cannot escape their sandbox."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from modules.chat.templates import DEFAULT, Message, render
from modules.core.errors import Unsupported
from modules.formats.gguf_header import read_header

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('there is no system role') }}{% endif %}"
    "[{{ message.role }}] {{ message.content | trim }}{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def conversation(*texts: str) -> list[Message]:
    """Return messages with these contents, alternately by the user and the assistant."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


SYSTEM: Message = {"role": "system", "content": "Be brief."}


def render_error(template: str) -> Unsupported:
    with pytest.raises(Unsupported) as refused:
        render(template, conversation("hello"))
    assert refused.value.say("zh") != refused.value.say("en")
    return refused.value


def test_a_template_renders_the_messages_and_the_generation_prompt() -> None:
    assert render(CHATML, [SYSTEM, *conversation("hi", "hello", "bye")]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nhello<|im_end|>\n"
        "<|im_start|>user\nbye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_template_places_special_tokens() -> None:
    assert render(NO_SYSTEM, conversation(" hi ", "hello", "bye"), "<s>", "</s>") == (
        "<s>[user] hi[assistant] hello</s>[user] bye[assistant]"
    )


def test_continuing_ends_the_prompt_with_the_last_message() -> None:
    assert render(CHATML, conversation("Count.", "One, two, "), continue_last=True) == (
        "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\nOne, two, "
    )


def test_the_message_of_an_error_raised_by_the_template_is_shown() -> None:
    with pytest.raises(Unsupported, match="there is no system role"):
        render(NO_SYSTEM, [SYSTEM, *conversation("hi")])
    assert render(NO_SYSTEM, conversation("hi"))


def test_without_a_template_the_default_marks_the_roles() -> None:
    assert render("", [SYSTEM, *conversation("hi", "hello", "bye")], eos_token="</s>") == (
        "Be brief.\n\n### Instruction:\nhi\n\n### Response:\nhello</s>\n\n### Instruction:\nbye\n\n### Response:\n"
    )
    assert render("", conversation("hi")) == render(DEFAULT, conversation("hi"))


def test_the_template_of_a_real_model_is_used(smollm2: Path) -> None:
    template = read_header(smollm2).chat_template
    question = "Name the capital of France in one English sentence."
    assert render(template, conversation(question)) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "Hugging Face" not in render(template, [SYSTEM, *conversation(question)])


def test_markup_in_a_message_is_not_rendered() -> None:
    assert "{{ 7 * 7 }} {% raw %} <b>&amp;" in render(CHATML, conversation("{{ 7 * 7 }} {% raw %} <b>&amp;"))


FEATURES = [
    ("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}", "hello"),
    ("{{ messages | tojson }}", '[{"role": "user", "content": "hello"}]'),
    ("{{ '猫' | tojson }}", '"猫"'),
    ("{{ {'b': 1, 'a': 2} | tojson(indent=1) }}", '{\n "b": 1,\n "a": 2\n}'),
    ("{{ '猫<' | tojson(ensure_ascii=False) }}", '"猫<"'),
    ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
    ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=True) }}", '{"a": 2, "b": 1}'),
    ("{{ strftime_now('%Y') }}", str(datetime.now().year)),
    ("{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}{{ n.x }}", "1"),
    ("{{ tools is defined }}{{ enable_thinking is defined and enable_thinking }}", "FalseFalse"),
    ("{{ messages[0].content.strip().split('l')[0].startswith('he') }}", "True"),
    ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "hello"),
    ("{%- if true %}\n  a\n  {%- endif %}\n", "  a"),
]


def test_the_features_of_published_templates_are_available(subtests: pytest.Subtests) -> None:
    for template, text in FEATURES:
        with subtests.test(template):
            assert render(template, conversation("hello")) == text


BROKEN = [
    "{% for message in messages %}",
    "{% nonsense %}",
    "{{ messages[5].content }}",
    "{{ messages[0]['content']['text']['more'] }}",
    "{{ 'a' + 1 }}",
    "{{ 1 / 0 }}",
    "{{ nowhere() }}",
    "{{ 'x' | no_such_filter }}",
    "{{ messages | tojson(indent='wide', nonsense=1) }}",
    "{% include 'other' %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
]


def test_a_broken_template_is_refused_with_a_message(subtests: pytest.Subtests) -> None:
    for template in BROKEN:
        with subtests.test(template):
            render_error(template)


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ (strftime_now).__globals__['datetime'] }}",
    "{{ raise_exception.__code__.co_code }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ (''|attr('__class__')).mro() }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ messages.append({'role': 'system', 'content': 'obey'}) }}",
    "{{ messages[0].update({'content': 'changed'}) }}",
    "{% for i in range(10 ** 9) %}x{% endfor %}",
]


def test_a_template_cannot_escape_its_sandbox(subtests: pytest.Subtests) -> None:
    for template in ESCAPES:
        with subtests.test(template):
            render_error(template)


def test_a_template_does_not_change_the_messages_of_the_caller() -> None:
    messages = conversation("hello")
    render("{% set messages = [] %}{% for m in messages %}{% set m = {} %}{% endfor %}", messages)
    assert messages == conversation("hello")
