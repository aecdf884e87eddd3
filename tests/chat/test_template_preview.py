"""The sample conversation of a template's preview, and what is marked in its prompt."""

from __future__ import annotations

import pytest

from modules.chat.errors import MessageLeftOut, TemplateRefused
from modules.chat.template_preview import Sample, check, render_input, render_sample, source_line, split, tags
from modules.chat.templates import ChatTemplates, ModelTemplate
from tests.support.template_table import CHATML, TEMPLATES

RENDERER = ChatTemplates()


def model(source: str, **special_tokens: str) -> ModelTemplate:
    return ModelTemplate("tiny", source, {}, special_tokens)


def test_the_sample_is_adapted_to_the_template_like_every_conversation() -> None:
    strict = model(TEMPLATES["questions and answers only"])
    assert render_sample(RENDERER, strict, Sample()).startswith(
        "<|im_start|>user\nYou are a helpful assistant.\n\nHow much is 17 × 3?<|im_end|>"
    )
    assert "你是一个乐于助人的助手。" in render_sample(RENDERER, model(CHATML), Sample("zh"))


def test_thinking_is_switched_on_and_off() -> None:
    switch = model(TEMPLATES["a switch for thinking"])
    assert not render_sample(RENDERER, switch, Sample(thinking=True)).endswith("</think>\n\n")
    assert render_sample(RENDERER, switch, Sample(thinking=False)).endswith("<think>\n\n</think>\n\n")


def test_tags_of_the_template_and_special_tokens_are_marked_and_those_of_messages_are_not() -> None:
    template = model("{{ bos_token }}[INST]{{ messages[0].content }}[/INST]<|x|>", bos_token="<s>", eos_token="</s>")
    text = "<s>[INST]a <b> [YES]</s>[/INST]<|x|>"
    assert sorted(tags(text, template)) == ["</s>", "<s>", "<|x|>", "[/INST]", "[INST]"]
    assert split("<s>[INST]a[/INST]", ["<s>", "[INST]"]) == [("<s>", True), ("[INST]", True), ("a[/INST]", False)]
    assert split("plain", []) == [("plain", False)] and split("", ["a"]) == []
    assert split("<a><ab>", ["<a", "<ab>"]) == [("<a", True), (">", False), ("<ab>", True)], "the longest one first"


def test_a_template_must_write_the_question() -> None:
    check(RENDERER, model(CHATML))
    with pytest.raises(MessageLeftOut, match="leaves the user's message out"):
        check(RENDERER, model("constant"))
    with pytest.raises(TemplateRefused):
        check(RENDERER, model("{{"))


def test_a_negative_prompt_has_a_system_message_if_there_is_one() -> None:
    assert render_input(RENDERER, model(CHATML), "") == "<|im_start|>user\nInput<|im_end|>\n<|im_start|>assistant\n"
    assert render_input(RENDERER, model(CHATML), "Be rude.").startswith("<|im_start|>system\nBe rude.<|im_end|>")


def test_a_line_of_the_source_is_shown_shortened() -> None:
    assert source_line("a\n  b \nc", 2) == "b"
    assert source_line("a", 0) == source_line("a", 2) == source_line("", 1) == ""
    assert len(source_line("x" * 5000, 1)) == 200
