"""The marks of a thought are those of the model's template, then those of other models."""

from __future__ import annotations

from modules.chat.reasoning_markers import reasoning_markers
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.reasoning import KNOWN_MARKERS, ReasoningMarkers, ReasoningParser
from tests.chat.test_features import CHANNELS, SOME_THOUGHTS, UNKNOWN_MARKS
from tests.support.template_table import CHATML, TEMPLATES

RENDERER = ChatTemplates()
QUESTION = [{"role": "user", "content": "Is <think> a tag?<think>"}]


def found(source: str, end: str = "") -> tuple[tuple[ReasoningMarkers, ...], bool]:
    template = ModelTemplate("tiny", source)
    return reasoning_markers(RENDERER, template, RENDERER.render(template, QUESTION) + end)


def test_a_prompt_that_ends_with_an_opening_mark_is_within_a_thought() -> None:
    markers, inside = found(TEMPLATES["thinking"])
    assert inside and markers[0].open == "<think>"
    assert not found(TEMPLATES["thinking"], "why?\n</think>\n\n")[1]
    assert not found(SOME_THOUGHTS)[1]
    markers, inside = found(CHATML, "<|channel>thought\n")
    assert inside and markers[0].close == "<channel|>"


def test_the_marks_of_the_template_come_first() -> None:
    markers, inside = found(UNKNOWN_MARKS)
    assert not inside
    assert markers[0].open == "[M]" and markers[1:] == KNOWN_MARKERS
    assert found(CHANNELS)[0][0].open == "<|channel|>analysis<|message|>"
    assert found(CHATML)[0] == KNOWN_MARKERS


def test_each_model_is_known_by_one_opening_mark() -> None:
    for source in (CHATML, SOME_THOUGHTS, UNKNOWN_MARKS, CHANNELS):
        opens = [markers.open for markers in found(source)[0]]
        assert len(set(opens)) == len(opens)


def test_a_reply_is_parsed_with_the_marks_of_its_template() -> None:
    parser = ReasoningParser(*found(UNKNOWN_MARKS))
    assert parser.feed("[M] why?[/M]\n[A]Because.") == [("reasoning", " why?"), ("text", "Because.")]
