"""Replies with calls are split into thought, text, calls and their arguments, however the text arrives."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterable
from typing import Any

import pytest

from modules.chat.tools.parser import ToolCallParser
from modules.chat.tools.use import ToolUse
from modules.core.reasoning import KNOWN_MARKERS, ReasoningParser
from tests.support.tool_replies import STYLES, UNUSUAL, Reply, replies, use_of

FORMATS = sorted(STYLES)


def split(use: ToolUse, cuts: Iterable[str], inside: bool = False) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the pieces of a reply, neighbors of one kind joined, and the faults."""
    parser = use.parser(ReasoningParser(KNOWN_MARKERS, inside))
    pieces = [piece for text in cuts for piece in parser.feed(text)] + parser.end()
    assert all(text for _, text in pieces)
    joined: list[tuple[str, str]] = []
    for kind, text in pieces:
        if joined and joined[-1][0] == kind != "call":
            joined[-1] = (kind, joined[-1][1] + text)
        else:
            joined.append((kind, text))
    return joined, list(parser.faults)


def parts_of(pieces: list[tuple[str, str]]) -> list[tuple[Any, ...]]:
    """Return the pieces with the arguments of each call as a value, or as text if they are no valid JSON."""
    parts: list[tuple[Any, ...]] = []
    for kind, text in pieces:
        if kind == "arguments":
            try:
                parts[-1] = (*parts[-1], json.loads(text))
            except ValueError:
                parts[-1] = (*parts[-1], text)
        else:
            parts.append((kind, text))
    return parts


def random_cuts(text: str, seed: int) -> list[str]:
    rng = random.Random(seed)
    at = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(1, 9)))
    return [text[start:end] for start, end in itertools.pairwise([0, *at, len(text)])]


@pytest.mark.parametrize("name", FORMATS)
def test_the_parts_of_a_reply_are_found(name: str, subtests: pytest.Subtests) -> None:
    use, count = use_of(name), 0
    for reply in replies(name):
        with subtests.test(reply.name):
            pieces, faults = split(use, [reply.text])
            assert parts_of(pieces) == list(reply.parts)
            assert len(faults) == reply.faults
        count += 1
    assert count >= 30


@pytest.mark.parametrize("name", FORMATS)
def test_the_pieces_do_not_depend_on_how_a_reply_is_cut(name: str, subtests: pytest.Subtests) -> None:
    use = use_of(name)
    for reply in [*replies(name), *_broken(name)]:
        with subtests.test(reply.name):
            whole = split(use, [reply.text])
            for cuts in (reply.text, *(random_cuts(reply.text, seed) for seed in range(20))):
                assert split(use, cuts) == whole, ascii(cuts)


def _broken(name: str) -> list[Reply]:
    """Return replies that begin like one and end like another; what they are worth is not said."""
    rng, found = random.Random(3), []
    texts = [reply.text for reply in replies(name)] + [text for text, _, _ in UNUSUAL.get(name, ())]
    for number in range(40):
        first, last = rng.choice(texts), rng.choice(texts)
        text = first[: rng.randrange(len(first) + 1)] + last[rng.randrange(len(last) + 1) :]
        found.append(Reply(f"broken {number}", text, ()))
    return found


def test_unusual_replies_are_read_as_they_are_meant(subtests: pytest.Subtests) -> None:
    for name, cases in UNUSUAL.items():
        use = use_of(name)
        for text, parts, faults in cases:
            with subtests.test(name, text=ascii(text)):
                whole = split(use, [text])
                assert (parts_of(whole[0]), len(whole[1])) == (list(parts), faults)
                for cuts in (text, *(random_cuts(text, seed) for seed in range(20))):
                    assert split(use, cuts) == whole


def test_arguments_arrive_as_they_are_written() -> None:
    parser = use_of("qwen-3-coder").parser(ReasoningParser(KNOWN_MARKERS))
    steps = [
        ("<tool_call>\n<function=write_", []),
        ("file>\n", []),
        ("<parameter=content>\n", [("call", "write_file"), ("arguments", '{"content": "')]),
        ("a", [("arguments", "a")]),
        ('"b\n', [("arguments", '\\"b')]),
        ("c</para", [("arguments", "\\nc")]),
        ("meter>\n</function>", [("arguments", '"}')]),
        ("\n</tool_call>", []),
    ]
    assert [parser.feed(text) for text, _ in steps] == [pieces for _, pieces in steps]


def test_plain_text_is_passed_on_at_once() -> None:
    parser = use_of("qwen-3").parser(ReasoningParser(KNOWN_MARKERS))
    assert isinstance(parser, ToolCallParser)
    assert [*parser.feed("It"), *parser.feed(" is"), *parser.feed(" warm")] == [
        ("text", "It"),
        ("text", " is"),
        ("text", " warm"),
    ]


def seconds_to_read(use: ToolUse, pieces: list[str]) -> float:
    began = time.process_time()
    split(use, pieces)
    return time.process_time() - began


def test_a_tag_that_is_repeated_for_ever_takes_no_longer_than_a_text() -> None:
    use = use_of("minimax-m2")
    assert seconds_to_read(use, [use.calls.openers[0]] * 1500) < 1, "two seconds, and the cube of the number of tags"


def test_reading_a_long_call_in_a_thought_takes_time_in_proportion_to_its_length() -> None:
    use = use_of("qwen-3")
    begun = STYLES["qwen-3"].calls([("write_file", {"path": "a", "content": "|"})]).partition("|")[0]
    assert seconds_to_read(use, ["<think>", begun, *["x "] * 10_000]) < 3


def test_markup_that_the_end_of_a_reply_cuts_off_is_no_text(subtests: pytest.Subtests) -> None:
    for name in FORMATS:
        use = use_of(name)
        reply = use.calls.text([(use.tools[0].name, '{"city": "Paris"}')])
        for end in range(reply.rfind("Paris") + len("Paris"), len(reply) + 1):
            with subtests.test(ascii(f"{name}: {reply[:end][-20:]}")):
                assert "text" not in [kind for kind, _ in split(use, [reply[:end]])[0]]
