"""Example dialogue is read as authors of characters write it."""

from __future__ import annotations

from modules.chat.example_dialogue import ExampleBlock, read_examples


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_blocks_begin_with_start_and_lines_with_a_name() -> None:
    text = "<START>\nIn the port.\nTom: Hi.\n  Mia : Hello.\nShe waves.\n<start>\nMia：Bye: now.\n<START>\n"
    assert read_examples(text, "Tom", "Mia") == [
        ExampleBlock("In the port.", (user("Hi."), assistant("Hello.\nShe waves."))),
        ExampleBlock("", (assistant("Bye: now."),)),
    ]


def test_text_without_names_or_start_is_kept() -> None:
    assert read_examples("She hums. Tommy: no", "Tom", "Mia") == [ExampleBlock("She hums. Tommy: no", ())]
    assert read_examples(" \n<START>", "Tom", "Mia") == []


def test_names_are_no_patterns() -> None:
    (block,) = read_examples("T.m (x): Hi\nTim (x): no", "T.m (x)", "[Mia]")
    assert block.messages == (user("Hi\nTim (x): no"),)
