"""Chat templates render messages as transformers does; malicious ones can neither escape nor delay other users."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from modules.chat.errors import NoDefaultTemplate, TemplateRefused, TemplateStopped
from modules.chat.message import Message
from modules.chat.templates import ALPACA, ChatTemplates, ModelTemplate
from modules.core.errors import OptionError, Unsupported
from modules.formats.gguf_header import read_header
from tests.support.template_table import CHATML
from tests.support.template_table import TEMPLATES as TEMPLATE_TABLE

TEMPLATES = ChatTemplates()
NO_SYSTEM = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('there is no system role') }}{% endif %}"
    "[{{ message.role }}] {{ message.content | trim }}{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def model(source: str, named: Mapping[str, str] | None = None, **special_tokens: Any) -> ModelTemplate:
    return ModelTemplate("tiny", source, named or {}, special_tokens)


def render(source: str, messages: list[Message], **options: Any) -> str:
    return TEMPLATES.render(model(source), messages, **options)


def conversation(*texts: str) -> list[Message]:
    """Return messages with these contents, alternately by the user and the assistant."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


SYSTEM: Message = {"role": "system", "content": "Be brief."}


def test_a_template_renders_the_messages_and_the_generation_prompt() -> None:
    assert render(CHATML, [SYSTEM, *conversation("hi", "hello", "bye")]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nhello<|im_end|>\n"
        "<|im_start|>user\nbye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_template_places_special_tokens() -> None:
    tiny = model(NO_SYSTEM, bos_token="<s>", eos_token="</s>")
    assert TEMPLATES.render(tiny, conversation(" hi ", "hello", "bye")) == (
        "<s>[user] hi[assistant] hello</s>[user] bye[assistant]"
    )


def test_the_message_of_an_error_raised_by_the_template_is_shown() -> None:
    refusing = "{% if messages | length > 3 %}{{ raise_exception('too much for me') }}{% endif %}" + CHATML
    with pytest.raises(TemplateRefused, match="chat template of tiny refused these messages: too much for me") as error:
        render(refusing, conversation("a", "b", "c", "d", "e"))
    assert error.value.say("zh") != error.value.say("en")
    assert render(refusing, conversation("hi"))


def test_without_a_template_the_alpaca_format_marks_the_roles() -> None:
    alpaca = model("", eos_token="</s>")
    assert TEMPLATES.render(alpaca, [SYSTEM, *conversation("hi", "hello", "bye")]) == (
        "Be brief.\n\n### Instruction:\nhi\n\n### Response:\nhello</s>\n\n### Instruction:\nbye\n\n### Response:\n"
    )
    assert render("", conversation("hi")) == render(ALPACA, conversation("hi"))


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


def test_half_a_character_in_a_message_is_kept() -> None:
    assert "a\ud83d" in render(CHATML, conversation("a\ud83d"))


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
    ("{{ tools is none }}{{ documents is none }}{{ enable_thinking is defined }}", "TrueTrueFalse"),
    ("{{ messages[0].content.strip().split('l')[0].startswith('he') }}", "True"),
    ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "hello"),
    ("{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}", "1"),
    ("{%- if true %}\n  a\n  {%- endif %}\n", "  a"),
]


def test_the_features_of_published_templates_are_available(subtests: pytest.Subtests) -> None:
    for template, text in FEATURES:
        with subtests.test(template):
            assert render(template, conversation("hello")) == text


def test_a_request_sets_variables_of_the_template() -> None:
    template = "{{ enable_thinking }} {{ bos_token }} {{ documents | length }}"
    kwargs = {"enable_thinking": False, "bos_token": "<b>", "documents": [{"title": "a"}]}
    assert (
        TEMPLATES.render(model(template, bos_token="<s>"), conversation("hi"), template_kwargs=kwargs) == "False <b> 1"
    )
    for name in ("messages", "add_generation_prompt"):
        with pytest.raises(OptionError, match=f"chat_template_kwargs: '{name}' is not acceptable"):
            render(CHATML, conversation("hi"), template_kwargs={name: []})


def test_the_template_for_tools_is_used_if_there_are_tools() -> None:
    tiny = model("plain", {"tool_use": "{{ tools | length }} tools"})
    assert TEMPLATES.render(tiny, conversation("hi"), template_kwargs={"tools": [{"name": "a"}]}) == "1 tools"
    assert TEMPLATES.render(tiny, conversation("hi")) == "plain"


def test_templates_without_a_default_are_refused_as_transformers_does() -> None:
    tiny = model("", {"tool_use": "a", "rag": "b"})
    with pytest.raises(NoDefaultTemplate, match="rag, tool_use"):
        TEMPLATES.render(tiny, conversation("hi"))
    (note,) = TEMPLATES.notes(tiny)
    assert "rag, tool_use" in note.text["en"] and "rag, tool_use" in note.text["zh"]


def test_the_missing_template_is_noted() -> None:
    (note,) = TEMPLATES.notes(model(""))
    assert note.option == "chat_template" and "Alpaca" in note.text["en"] and "Alpaca" in note.text["zh"]
    assert TEMPLATES.notes(model(CHATML)) == ()


def test_a_template_that_takes_less_is_noted() -> None:
    (note,) = TEMPLATES.notes(model(NO_SYSTEM))
    assert "the system message becomes the beginning of the first question" in note.text["en"]
    assert "系统消息置于首个提问开头" in note.text["zh"]


# -- continuing -------------------------------------------------------------------------------------------------------

TRIMMING = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
THINKING = (
    "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}<{{ m.role }}>{{ c }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
CONTINUED = {
    "a plain template": (CHATML, "One, two, ", "assistant\nOne, two, "),
    "a template that trims texts": (TRIMMING, " One, two, ", "<assistant>One, two, "),
    "a template that opens a thought in new answers": (THINKING, "One", "<assistant>One"),
    "a template that leaves thoughts out": (THINKING, "why?</think>One", "<assistant>why?</think>One"),
    "an empty answer": (CHATML, "", "assistant\n"),
    "no template": ("", "One", "### Response:\nOne"),
}


@pytest.mark.parametrize(("template", "text", "end"), CONTINUED.values(), ids=CONTINUED)
def test_continuing_ends_the_prompt_with_the_last_message(template: str, text: str, end: str) -> None:
    prompt = render(template, conversation("Count.", text), continue_last=True)
    assert prompt.endswith(end) and "Count." in prompt


BEGUN = {
    "a template that shows thoughts": (TEMPLATE_TABLE["reasoning"], "<think>why?\nso "),
    "a template that opens a thought in new answers": (THINKING, "<assistant><think>\nwhy?\nso "),
    "a template without thoughts": (CHATML, "assistant\n<think>\nwhy?\nso "),
    "a template that closes a thought at once": (
        CHATML + "{% if add_generation_prompt %}<|channel>thought\n<channel|>{% endif %}",
        "assistant\n<|channel>thought\nwhy?\nso ",
    ),
}


@pytest.mark.parametrize(("template", "end"), BEGUN.values(), ids=BEGUN)
def test_a_message_that_ended_in_its_thought_is_continued_there(template: str, end: str) -> None:
    for name in ("reasoning_content", "thinking", "reasoning"):
        begun = [*conversation("Count."), {"role": "assistant", "content": "", name: "why?\nso "}]
        prompt = render(template, begun, continue_last=True)
        assert prompt.endswith(end) and "Count." in prompt


def test_thoughts_and_text_of_a_continued_message_stay_apart() -> None:
    complete = [*conversation("Count."), {"role": "assistant", "content": "One", "reasoning_content": "why?"}]
    assert render(TEMPLATE_TABLE["reasoning"], complete, continue_last=True).endswith("<think>why?</think>(4)One")
    assert render(CHATML, complete, continue_last=True).endswith("assistant\nOne")


def test_a_message_that_the_template_leaves_out_cannot_be_continued() -> None:
    with pytest.raises(Unsupported, match="cannot be continued: the chat template of tiny leaves its text out"):
        render("{{ messages[0].content }}", conversation("Count.", "One"), continue_last=True)


# -- broken and hostile templates -------------------------------------------------------------------------------------

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
    "{{ " + "(" * 5000 + ")" * 5000 + " }}",
]
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ (strftime_now).__globals__['datetime'] }}",
    "{{ raise_exception.__code__.co_code }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ (''|attr('__class__')).mro() }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ namespace(__class__='x') }}",
    "{% set n = namespace() %}{% set n._x = 1 %}",
    "{{ messages.append({'role': 'system', 'content': 'obey'}) }}",
    "{{ messages[0].update({'content': 'changed'}) }}",
    "{% for i in range(10 ** 9) %}x{% endfor %}",
]


@pytest.mark.parametrize("template", [*BROKEN, *ESCAPES], ids=lambda template: template[:40])
def test_a_template_that_is_broken_or_tries_to_escape_is_refused_with_a_message(template: str) -> None:
    with pytest.raises(TemplateRefused) as refused:
        render(template, conversation("hello"))
    assert len(refused.value.reason) <= 2000


TOO_MUCH = {
    "{{ 'a' * 10 ** 9 }}": "512 MB",
    "{{ '%0999999999d' % 1 }}": "512 MB",
    "{{ '{:>1000000000}'.format(1) }}": "512 MB",
    "{% set n = namespace(s='ab') %}{% for i in range(40) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}": "512 MB",
    "{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}": "8 MB",
}


@pytest.mark.parametrize(("template", "limit"), TOO_MUCH.items(), ids=lambda text: text[:40])
def test_a_template_that_takes_too_much_memory_is_stopped(template: str, limit: str) -> None:
    before = _resident_bytes()
    with pytest.raises(TemplateStopped, match=f"template of tiny was stopped: .*{limit}") as stopped:
        render(template, conversation("hello"))
    assert limit in stopped.value.say("zh")
    assert _resident_bytes() - before < 20 << 20
    assert render(CHATML, conversation("hello")), "the next template has a process of its own"


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


LENGTHENING = "{% for m in messages %}{{ m.content * 1000 if m.content[:4] == 'long' else m.content }}{% endfor %}"


def test_renderings_that_exceed_a_limit_together_are_made_in_smaller_groups() -> None:
    several = [(conversation("long" * 700 + str(number)), False) for number in range(3)]
    found = TEMPLATES.render_all(model(LENGTHENING), several)
    assert [(one.text[-5:], len(one.text)) for one in found] == [(f"long{number}", 2_801_000) for number in range(3)]


def test_one_conversation_that_exceeds_a_limit_stops_the_template() -> None:
    longest = conversation("long" * 2500)
    with pytest.raises(TemplateStopped, match="8 MB"):
        TEMPLATES.render_all(model(LENGTHENING), [(conversation("hello"), False), (longest, False)])
    with pytest.raises(TemplateStopped, match="8 MB"):
        render(LENGTHENING, longest)
    assert render(LENGTHENING, conversation("hello")) == "hello"


def test_a_template_that_never_ends_delays_nobody_else_and_is_not_tried_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This power is computed in C, so that neither SIGTERM nor a Python exception would end it."""
    monkeypatch.setattr("modules.chat.renderer.SECONDS", 2)
    TEMPLATES.close()  # the processes that were started with the usual limit
    endless = "{{ (10 ** (10 ** 9)) % 7 }}"
    errors: list[TemplateStopped] = []

    def try_it() -> None:
        with pytest.raises(TemplateStopped) as stopped:
            render(endless, conversation("hello"))
        errors.append(stopped.value)

    hostile = [threading.Thread(target=try_it) for _ in range(3)]
    for thread in hostile:
        thread.start()
    while any(thread.is_alive() for thread in hostile):
        started = time.monotonic()
        assert render(CHATML, conversation("hello"))
        assert time.monotonic() - started < 1.5, "the two seconds of the hostile template were waited for"
        time.sleep(0.2)
    started = time.monotonic()
    try_it()
    assert time.monotonic() - started < 0.5 and len(errors) == 4
    assert "ran for more than" in str(errors[0])
    (note,) = TEMPLATES.notes(model(endless))
    assert "was stopped" in note.text["en"]


def test_a_template_does_not_change_the_messages_of_the_caller() -> None:
    messages = conversation("hello")
    render("{% set messages = [] %}{% for m in messages %}{% set m = {} %}{% endfor %}", messages)
    assert messages == conversation("hello")
