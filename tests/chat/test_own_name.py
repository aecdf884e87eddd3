"""A name before the text of a reply is dropped, whatever the pieces in which the reply arrives."""

from __future__ import annotations

import pytest

from modules.chat.own_name import NamedReplyParser
from modules.core.pieces import REASONING, TEXT, Piece
from modules.core.reasoning import KNOWN_MARKERS, ReasoningParser


def parsed(text: str, size: int) -> dict[str, str]:
    parser = NamedReplyParser(ReasoningParser(KNOWN_MARKERS), ("Mia Li", "Tom", "小红"))
    pieces: list[Piece] = []
    for start in range(0, len(text), size):
        pieces += parser.feed(text[start : start + size])
    pieces += parser.end()
    joined = {REASONING: "", TEXT: ""}
    for kind, piece in pieces:
        assert piece, "no piece is empty"
        joined[kind] += piece
    return joined


def test_a_leading_name_is_dropped(subtests: pytest.Subtests) -> None:
    for text, expected in (
        ("Mia Li: Hello", "Hello"),
        ("\n Mia Li:\nHello: Tom: you", "Hello: Tom: you"),
        ("Tom:Hello", "Hello"),
        ("小红：你好", "你好"),
        ("**Mia Li:** Hello", "Hello"),
        ("**Mia Li**: Hello", "Hello"),
        ("*Mia smiles.* Hello", "*Mia smiles.* Hello"),
        ("Mia Lin: Hello", "Mia Lin: Hello"),
        ("Mia Li", "Mia Li"),
        ("Mia Li:", ""),
        ("  Hello  ", "Hello  "),
        ("Mia Li: Mia Li: Hello", "Mia Li: Hello"),
        ("", ""),
    ):
        for size in (1, 2, 3, 100):
            with subtests.test(text=text, size=size):
                assert parsed(text, size)[TEXT] == expected


def test_a_thought_before_the_name_is_kept() -> None:
    for size in (1, 4, 100):
        assert parsed("<think>Tom: hm</think>\n\nMia Li: Hello", size) == {REASONING: "Tom: hm", TEXT: "Hello"}


def test_text_that_cannot_become_a_name_is_not_held_back() -> None:
    parser = NamedReplyParser(ReasoningParser(()), ("Mia",))
    assert parser.feed(" M") == [] and parser.feed("y") == [(TEXT, "My")]
    assert parser.feed(" cat") == [(TEXT, " cat")]
