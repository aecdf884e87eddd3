"""Replies are split into a thought and an answer, however the pieces of text arrive."""

from __future__ import annotations

import itertools
import random
import weakref
from collections.abc import Iterable

import pytest

from modules.core.pieces import REASONING, TEXT
from modules.core.reasoning import KNOWN_MARKERS, ReasoningMarkers, ReasoningParser

THINK = KNOWN_MARKERS[:1]
CHANNEL = "<|channel|>analysis<|message|>"


def split(
    pieces: Iterable[str],
    markers: tuple[ReasoningMarkers, ...] = KNOWN_MARKERS,
    inside: bool = False,
    begun: bool = False,
) -> list[tuple[str, str]]:
    """Return what the parser makes of the pieces, neighbors of one kind joined."""
    parser = ReasoningParser(markers, inside, begun)
    found = [part for piece in pieces for part in parser.feed(piece)] + parser.end()
    assert all(text for _, text in found)
    joined = itertools.groupby(found, lambda part: part[0])
    return [(kind, "".join(text for _, text in parts)) for kind, parts in joined]


def thought(reasoning: str, text: str = "") -> list[tuple[str, str]]:
    return [(REASONING, reasoning), *([(TEXT, text)] if text else [])]


REPLIES = {
    "<think>\nwhy?\n</think>\n\nBecause.": thought("why?", "Because."),
    "\n <think>why?</think>Because.": thought("why?", "Because."),
    "[THINK]why?[/THINK]Because.": thought("why?", "Because."),
    "<seed:think>why?</seed:think>Because.": thought("why?", "Because."),
    "<|channel>thought\nwhy?\n<channel|>Because.": thought("why?", "Because."),
    "<|START_THINKING|>why?<|END_THINKING|><|START_RESPONSE|>Because.": thought("why?", "Because."),
    "<|think|>why?<|end|>Because.": thought("why?", "Because."),
    "<|channel|>analysis<|message|>why?<|end|><|start|>assistant<|channel|>final<|message|>Because.": thought(
        "why?", "Because."
    ),
    "<|channel|>final<|message|>Because.": [(TEXT, "Because.")],
    "<|channel|>analysis<|message|>why?\n<|start|>assistant<|channel|>final<|message|>Because.": thought(
        "why?", "Because."
    ),
    "<|channel|>analysis<|message|>why? <|start|>assistant": thought("why? <|start|>assistant"),
    "<think>\n\n</think>\n\nBecause.": [(TEXT, "Because.")],
    "<think>why?": thought("why?"),
    "<think>why? </thi": thought("why? </thi"),
    "<think>why?\n\n": thought("why?\n\n"),
    "<think>one\n\n  two \n</think>\n  three\n\n": thought("one\n\n  two ", "  three\n\n"),
    "": [],
    " \n": [(TEXT, " \n")],
    "\n\nBecause.": [(TEXT, "\n\nBecause.")],
    "<thin": [(TEXT, "<thin")],
    "<thinking>no": [(TEXT, "<thinking>no")],
    "Because <think>of</think> this.": [(TEXT, "Because <think>of</think> this.")],
    "</think>Because.": [(TEXT, "</think>Because.")],
    "<think>a</think>b<think>c</think>d": thought("a", "b<think>c</think>d"),
    "<think>a <think> b</think>c": thought("a <think> b", "c"),
    "<think>the tag `</think>` ends it</think>yes": thought("the tag `</think>` ends it", "yes"),
    "<think>\n“</think>”用于结束。\n</think>\n好": thought("“</think>”用于结束。", "好"),
    'Say "<think>"': [(TEXT, 'Say "<think>"')],
    '<think>He says "hi"</think>"hi"': thought('He says "hi"', '"hi"'),
    "<think>a `code`</think>`b`": thought("a `code`", "`b`"),
    "<think>unfinished `</think>": thought("unfinished `"),
}


def test_a_reply_is_split_into_its_thought_and_its_answer(subtests: pytest.Subtests) -> None:
    for reply, parts in REPLIES.items():
        with subtests.test(reply):
            assert split([reply]) == parts


INSIDE = {
    "why?\n</think>\n\nBecause.": thought("why?", "Because."),
    "\nwhy?</think>Because.": thought("why?", "Because."),
    "<think>\nwhy?</think>Because.": thought("why?", "Because."),
    "</think>Because.": [(TEXT, "Because.")],
    " why? <": thought(" why? <"),
    "": [],
}


def test_a_reply_begins_in_the_thought_that_its_prompt_has_opened(subtests: pytest.Subtests) -> None:
    for reply, parts in INSIDE.items():
        with subtests.test(reply):
            assert split([reply], THINK, inside=True) == parts


def test_a_continued_reply_keeps_its_first_newlines_and_opens_no_thought() -> None:
    assert split(["\n\nwhy?\n</think>\nBecause."], inside=True, begun=True) == thought("\n\nwhy?", "Because.")
    assert split(["\n\n<think>why?</think>"], begun=True) == [(TEXT, "\n\n<think>why?</think>")]


def test_without_markers_a_reply_is_text() -> None:
    assert split(["<think>", "why?"], ()) == [(TEXT, "<think>why?")]


def test_the_result_does_not_depend_on_how_a_reply_is_cut(subtests: pytest.Subtests) -> None:
    rng = random.Random(1)
    fragments = ["<think>", "</think>", "<", "`", '"', "\n", "\n\n", " ", "a", "thi", "/", "“", "”", "猫", "<|end|>"]
    fragments += ["<|channel|>final<|message|>", "<|start|>assistant"]
    composed = ["".join(rng.choices(fragments, k=rng.randrange(1, 12))) for _ in range(1500)]
    for reply in [
        *REPLIES,
        *composed,
        *("<think>" + text for text in composed),
        *(CHANNEL + text for text in composed),
    ]:
        inside, begun = rng.random() < 0.3, rng.random() < 0.2
        whole = split([reply], inside=inside, begun=begun)
        for pieces in ([*reply], _cut(reply, rng), _cut(reply, rng)):
            assert split(pieces, inside=inside, begun=begun) == whole, (reply, pieces)


def _cut(text: str, rng: random.Random) -> list[str]:
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(4)))
    return [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]


def test_text_is_held_back_only_while_it_may_belong_to_a_marker() -> None:
    parser = ReasoningParser(THINK)
    steps = [
        ("<", []),
        ("think>\n", []),
        ("why", [(REASONING, "why")]),
        ("?\n", [(REASONING, "?")]),
        ("so <", [(REASONING, "\nso ")]),
        ("b> </th", [(REASONING, "<b> ")]),
        ("ink>", []),
        ("\n", []),
        ("yes\n", [(TEXT, "yes\n")]),
        ("<", [(TEXT, "<")]),
    ]
    assert [parser.feed(piece) for piece, _ in steps] == [parts for _, parts in steps]


def test_the_parser_tells_whether_it_is_within_the_thought() -> None:
    parser = ReasoningParser(THINK)
    within = []
    for piece in ("<think>", "why", "?</think>", "yes"):
        parser.feed(piece)
        within.append(parser.inside)
    assert within == [True, True, False, False]
    assert ReasoningParser(THINK, inside=True).inside


def test_a_parser_that_is_dropped_does_not_wait_for_the_garbage_collector(subtests: pytest.Subtests) -> None:
    for text in ("", "<thi", "<think>thought", "<think>thought</think>", "answer"):
        with subtests.test(text=text):
            parser = ReasoningParser(KNOWN_MARKERS)
            parser.feed(text)
            dropped = weakref.ref(parser)
            del parser
            assert dropped() is None
