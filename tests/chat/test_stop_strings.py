"""What ends a reply is found in how a template separates messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from modules.chat.message import Message
from modules.chat.stop_strings import separators, without_markers
from modules.core.reasoning import ReasoningMarkers


def renderer(user: str, assistant: str) -> Callable[[Sequence[Message]], str]:
    def render(messages: Sequence[Message]) -> str:
        forms = {"user": user, "assistant": assistant}
        return "".join(forms[one["role"]].replace("@", str(one["content"])) for one in messages)

    return render


def test_separators_end_with_the_first_closing_bracket_or_colon(subtests: pytest.Subtests) -> None:
    for user, assistant, expected in (
        ("<|user|>@<|end|>\n", "<|bot|>@<|end|>\n", ("<|end|>",)),
        ("[INST] @ [/INST]", " @</s>", ("[/INST]", "</s>")),
        ("\nTom: @", "\nMia: @", ("\nMia:", "\nTom:")),
        ("### Question:\n@\n\n", "### Answer:\n@\n\n", ("\n\n### Answer:", "\n\n### Question:")),
        ("(u) @ ", "{a} @ ", ("{a}", "(u)")),
        ("@ ", "@ ", ()),
        ("A: @ ", "A:: @ ", (" A:",)),
    ):
        with subtests.test(user=user):
            assert separators(renderer(user, assistant)) == expected


def test_a_template_that_changes_the_messages_has_no_separators() -> None:
    assert separators(lambda messages: " ".join(one["content"] for one in messages).upper()) == ()
    assert separators(lambda messages: str(messages[-1]["content"])) == ()


def test_markers_of_thoughts_are_no_separators() -> None:
    markers = ReasoningMarkers("<think>", "<|end|>", ("<|start|>final",))
    assert without_markers(["<|end|>", "<|start|>", "<|return|>"], markers) == ("<|return|>",)
    assert without_markers(["<|end|>"], None) == ("<|end|>",)
