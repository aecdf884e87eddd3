"""Answers are found in the text of a template by rendering it, whatever the template does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from modules.chat.message import Message
from modules.chat.templates import ALPACA, ChatTemplates, ModelTemplate
from modules.core.paths import ROOT
from modules.training.dataset.conversations import Conversation
from modules.training.dataset.masking import MaskedText, TemplateMasks
from modules.training.dataset.values import BadValue
from tests.support.template_table import CHATML, SPECIAL_TOKENS

FAMILIES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "tests" / "support" / "family_templates").glob("*.jinja"))
}
SYSTEM: Message = {"role": "system", "content": "Be brief."}
QUESTION: Message = {"role": "user", "content": "What is 1 + 1?"}
ANSWER: Message = {"role": "assistant", "content": "Two,\n\tthree"}
AGAIN: Message = {"role": "user", "content": "And then?"}
SECOND: Message = {"role": "assistant", "content": "你好 x."}
THOUGHTFUL: Message = {**ANSWER, "reasoning_content": "Let me count."}

TURNS = Conversation((SYSTEM, QUESTION, ANSWER, AGAIN, SECOND))
ONE = Conversation((SYSTEM, QUESTION, ANSWER))


@pytest.fixture(scope="module")
def templates() -> Iterator[ChatTemplates]:
    templates = ChatTemplates()
    yield templates
    templates.close()


def masked(templates: ChatTemplates, source: str, *conversations: Conversation) -> list[MaskedText | BadValue]:
    return TemplateMasks(templates, ModelTemplate("tiny", source, {}, SPECIAL_TOKENS)).mask(conversations)


def text_of(result: MaskedText | BadValue) -> MaskedText:
    assert isinstance(result, MaskedText)
    return result


def trained(result: MaskedText | BadValue) -> list[str]:
    return [text for text, is_trained in text_of(result).segments if is_trained]


EXPECTED: Mapping[str, tuple[list[str], bool]] = {
    "deepseek-r1": (["{}<｜end▁of▁sentence｜>"], False),
    "gemma-2": (["{}<end_of_turn>"], False),
    "gemma-4": (["{}<turn|>"], False),
    "glm-4": (["\n<think></think>\n{}"], False),
    "gpt-oss": (["<|channel|>final<|message|>{}<|return|>"], True),
    "llama-3": (["{}<|eot_id|>"], False),
    "mistral-v3": (["{}<eos_token>"], True),
    "mistral-v7": (["{}<eos_token>"], False),
    "phi-3": (["{}<|end|>", "{}<|end|>\n<eos_token>"], False),
    "qwen-3": (["<think>\n\n</think>\n\n{}<|im_end|>"], True),
}
"""What is trained of each answer, and whether only of the last one: the template rewrites what comes before it."""


def test_the_answers_of_ten_families_are_trained_with_their_end_marks(
    templates: ChatTemplates, subtests: pytest.Subtests
) -> None:
    assert set(EXPECTED) == set(FAMILIES)
    for name, source in FAMILIES.items():
        with subtests.test(name):
            forms, last_only = EXPECTED[name]
            several, one = masked(templates, source, TURNS, ONE)
            second = forms[-1].format(SECOND["content"])
            expected = [second] if last_only else [forms[0].format(ANSWER["content"]), second]
            assert (trained(several), text_of(several).last_only) == (expected, last_only)
            assert (trained(one), text_of(one).last_only) == ([forms[-1].format(ANSWER["content"])], False)


def test_what_is_not_trained_is_the_prompt_that_a_model_gets(
    templates: ChatTemplates, subtests: pytest.Subtests
) -> None:
    for name, source in FAMILIES.items():
        with subtests.test(name):
            prompt = templates.render(ModelTemplate("tiny", source, {}, SPECIAL_TOKENS), [SYSTEM, QUESTION])
            (result,) = masked(templates, source, ONE)
            before = text_of(result).segments[0][0]
            assert prompt == before or (prompt == before + "<think>\n" and text_of(result).begins_thought)
            assert text_of(result).begins_thought == (name == "deepseek-r1")


def test_a_system_message_that_moves_to_the_last_question_is_not_lost(templates: ChatTemplates) -> None:
    (result,) = masked(templates, FAMILIES["mistral-v3"], ONE)
    assert text_of(result).segments[0][0] == "<bos_token>[INST]Be brief.\n\nWhat is 1 + 1?[/INST]"


def test_thoughts_are_trained_or_missed_with_notice(templates: ChatTemplates) -> None:
    thoughtful = Conversation((QUESTION, THOUGHTFUL))
    (kept,), (lost,) = (masked(templates, FAMILIES[name], thoughtful) for name in ("qwen-3", "gemma-2"))
    assert trained(kept) == ["<think>\nLet me count.\n</think>\n\nTwo,\n\tthree<|im_end|>"]
    assert (text_of(kept).left_out, text_of(lost).left_out) == (False, True)


def test_white_space_behind_an_end_mark_belongs_to_the_next_turn(templates: ChatTemplates) -> None:
    (result,) = masked(templates, CHATML, ONE)
    assert text_of(result).segments[-2:] == (("Two,\n\tthree<|im_end|>", True), ("\n", False))


def test_an_empty_thought_of_the_prompt_is_context_of_the_answer(templates: ChatTemplates) -> None:
    (result,) = masked(templates, FAMILIES["gemma-4"], TURNS)
    before = "".join(text for text, _ in text_of(result).segments[:3])
    assert before.endswith("<|turn>model\n<|channel>thought\n<channel|>")
    assert trained(result) == ["Two,\n\tthree<turn|>", "你好 x.<turn|>"]


def test_an_answer_that_begins_like_the_prompt_is_whole(templates: ChatTemplates) -> None:
    source = CHATML[: -len("{% endif %}")] + "<think>\n{% endif %}"
    answer = {"role": "assistant", "content": "<thin> ice"}
    (result,) = masked(templates, source, Conversation((QUESTION, answer)))
    assert trained(result) == ["<thin> ice<|im_end|>"]


def test_a_template_that_rewrites_is_masked_by_its_own_blocks(templates: ChatTemplates) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}\n  {% generation %}\n"
        "{{ m.content if loop.last else m.content | upper }}<|end|>\n  {%- endgeneration %}\n"
        "{% else %}({{ m.content }}){% endif %}{% endfor %}"
    )
    (result,) = masked(templates, source, TURNS)
    whole = templates.render(ModelTemplate("tiny", source), TURNS.messages, generation_prompt=False)
    assert "".join(text for text, _ in text_of(result).segments) == whole
    assert [text.strip() for text in trained(result)] == ["TWO,\n\tTHREE<|end|>", "你好 x.<|end|>"]


def test_an_end_is_added_only_if_the_template_has_none(templates: ChatTemplates) -> None:
    bare = "{% for m in messages %}\n{{ m.role }}: {{ m.content }}{% endfor %}"
    for source, eos in {bare: True, CHATML: False, ALPACA: False}.items():
        (result,) = masked(templates, source, ONE)
        assert text_of(result).eos == eos


def test_a_greeting_that_a_template_cannot_begin_with_is_context(templates: ChatTemplates) -> None:
    source = "{% if messages | length == 0 %}{{ raise_exception('none') }}{% endif %}" + CHATML
    greeted = Conversation(({"role": "assistant", "content": "Hello."}, QUESTION, ANSWER))
    (result,) = masked(templates, source, greeted)
    assert trained(result) == ["Two,\n\tthree<|im_end|>"]


def test_a_refusal_is_the_reason_of_the_row(templates: ChatTemplates) -> None:
    source = "{% if messages[0].content == 'x' %}{{ raise_exception('no x') }}{% endif %}" + CHATML
    bad: Any = Conversation(({"role": "user", "content": "x"}, ANSWER))
    refused, fine = masked(templates, source, bad, ONE)
    assert isinstance(refused, BadValue) and "no x" in str(refused)
    assert trained(fine)


def test_tools_are_shown_to_the_template(templates: ChatTemplates) -> None:
    source = "{% if tools %}{{ tools | length }} tools{% endif %}" + CHATML
    with_tools = Conversation(ONE.messages, [{"type": "function"}])
    results = masked(templates, source, ONE, with_tools, ONE)
    assert [text_of(result).segments[0][0].startswith("1 tools") for result in results] == [False, True, False]
