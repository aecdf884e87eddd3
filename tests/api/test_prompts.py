"""The prompt of a chat request, and what its answer must look like."""

from __future__ import annotations

from modules.api.prompts import after_thought
from modules.chat.prompt import ChatPrompt
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.prompt import Prompt
from modules.core.reasoning import ReasoningMarkers

TEMPLATES = ChatTemplates()
THINKS = (
    "{% for m in messages %}{{ m.role }}: "
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}\n{% endfor %}"
)
TAGS = ReasoningMarkers("<think>", "</think>")
ANSWER = ["json", {"type": "object"}]


def prompt_of(text: str, source: str = THINKS, *, inside: bool = False) -> ChatPrompt:
    return ChatPrompt(Prompt(text), (), (TAGS,), inside=inside, template=ModelTemplate("model", source))


def test_a_thought_may_precede_the_form_of_an_answer() -> None:
    rest = [["until", "</think>"], ["space"]]
    assert after_thought(TEMPLATES, prompt_of("user: Hi"), ANSWER) == [
        "all",
        ["maybe", ["all", ["text", "<think>"], *rest]],
        ANSWER,
    ]
    assert after_thought(TEMPLATES, prompt_of("user: Hi<think>", inside=True), ANSWER) == ["all", *rest, ANSWER]


def test_a_model_that_has_no_thoughts_or_has_just_ended_one_gives_its_answer() -> None:
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert after_thought(TEMPLATES, prompt_of("user: Hi", plain), ANSWER) == ANSWER
    assert after_thought(TEMPLATES, prompt_of("user: Hi<think>\n\n</think>\n"), ANSWER) == ANSWER


def test_headers_of_an_answer_may_follow_its_thought() -> None:
    channels = ReasoningMarkers("<|channel|>analysis", "<|end|>", ("<|channel|>final",))
    prompt = ChatPrompt(Prompt("user: Hi"), (), (channels,), inside=True)
    assert after_thought(TEMPLATES, prompt, ANSWER) == [
        "all",
        ["until", "<|end|>"],
        ["space"],
        ["maybe", ["any", ["text", "<|channel|>final"]]],
        ["space"],
        ANSWER,
    ]
