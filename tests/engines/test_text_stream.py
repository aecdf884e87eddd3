"""The text of an answer: whole characters, and no part of a stop string."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence

import pytest

from modules.core.events import Logprob, Text, TokenLogprobs
from modules.engines.text_stream import TextStream, begun_character

MIXED = "né 猫です 👩‍👧 🇫🇷 a\u0301 ok"


def released(pieces: Iterable[bytes], stops: Sequence[str] = ()) -> list[str]:
    """Return the texts that the stream releases; feeding ends when it has stopped."""
    stream = TextStream(stops)
    events: list[Text | None] = []
    for piece in pieces:
        events.append(stream.feed(piece))
        if stream.stopped:
            break
    events.append(stream.finish())
    return [event.text for event in events if event is not None]


def expected_text(raw: bytes, stops: Sequence[str]) -> str:
    """Return the text of `raw` before the stop string that ends first; if several end there, before the longest."""
    text = raw.decode("utf-8", "replace")
    for end in range(len(text) + 1):
        matches = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if matches:
            return text[: end - max(map(len, matches))]
    return text


def split(raw: bytes, rng: random.Random) -> list[bytes]:
    pieces = []
    while raw:
        size = rng.choice((1, 1, 2, 3, 5))
        pieces.append(raw[:size])
        raw = raw[size:]
    return pieces


def test_plain_text_is_released_at_once() -> None:
    assert released([b"Hello", b" world", b"!"]) == ["Hello", " world", "!"]


def test_a_character_split_between_tokens_waits_for_its_remaining_bytes(subtests: pytest.Subtests) -> None:
    for position in range(len(MIXED.encode()) + 1):
        with subtests.test(position=position):
            raw = MIXED.encode()
            texts = released([raw[:position], raw[position:]])
            assert "".join(texts) == MIXED
            assert not any("\ufffd" in text for text in texts)


def test_single_bytes_are_released_as_whole_characters() -> None:
    assert released(bytes([byte]) for byte in MIXED.encode()) == list(MIXED)


def test_an_incomplete_character_at_the_end_becomes_a_replacement_character() -> None:
    assert released([b"cat ", "猫".encode()[:2]]) == ["cat ", "\ufffd"]


def test_text_after_invalid_utf8_is_decoded() -> None:
    assert "".join(released([b"a\xff", b"b\xe7\x8c", b"c"])) == "a\ufffdb\ufffdc"


STOPPED: list[tuple[list[str], list[str], list[str]]] = [
    (["one", " two"], [" t"], ["one"]),
    (["one ST", "OP two"], ["STOP"], ["one "]),
    (["one S", "T", "O", "P"], ["STOP"], ["one "]),
    (["STOP"], ["STOP"], [""]),
    (["one S", "TAY"], ["STOP"], ["one ", "STAY"]),
    (["one ST"], ["STOP"], ["one ", "ST"]),
    (["aab"], ["ab"], ["a"]),
    (["a", "a", "b"], ["ab"], ["a"]),
    (["xx\n", "\nUser", ":"], ["\nUser:", "\n\n"], ["xx"]),
    (["猫", "。狗"], ["。"], ["猫"]),
    (["Hello"], [""], ["Hello"]),
]


def test_no_part_of_a_stop_string_is_released(subtests: pytest.Subtests) -> None:
    for pieces, stops, texts in STOPPED:
        with subtests.test(pieces=pieces, stops=stops):
            assert [text for text in released((piece.encode() for piece in pieces), stops) if text] == [
                text for text in texts if text
            ]


def test_of_two_stop_strings_that_end_together_the_longer_one_counts() -> None:
    for stops in (["b", "ab"], ["ab", "b"]):
        assert "".join(released([b"x", b"a", b"b"], stops)) == "x"
        assert "".join(released([b"xab"], stops)) == "x"


def test_the_stop_string_that_ends_first_counts_however_the_text_is_split() -> None:
    assert "".join(released([b"xa", b"b", b"c"], ["abc", "b"])) == "xa"
    assert "".join(released([b"xabc"], ["abc", "b"])) == "xa"


def test_the_stop_string_that_ended_the_text_is_known(subtests: pytest.Subtests) -> None:
    for pieces, stops, expected in [
        (["one ST", "OP two"], ["two", "STOP"], "STOP"),
        (["x", "ab"], ["b", "ab"], "ab"),
        (["xa", "b", "c"], ["abc", "b"], "b"),
        (["one ST"], ["STOP"], ""),
    ]:
        with subtests.test(pieces=pieces, stops=stops):
            stream = TextStream(stops)
            for piece in pieces:
                if not stream.stopped:
                    stream.feed(piece.encode())
            stream.finish()
            assert (stream.stop_string, stream.stopped) == (expected, bool(expected))


def test_the_released_text_does_not_depend_on_how_it_is_split() -> None:
    rng = random.Random(7)
    alphabet = ["a", "b", "猫", "猫", "é", "🇫"]
    for _ in range(3000):
        raw = "".join(rng.choices(alphabet, k=rng.randrange(12))).encode()
        if rng.random() < 0.3:
            raw = raw[: rng.randrange(len(raw) + 1)] + b"\xff" + raw[rng.randrange(len(raw) + 1) :]
        stops = ["".join(rng.choices(alphabet, k=rng.randrange(1, 4))) for _ in range(rng.randrange(4))]
        texts = released(split(raw, rng), stops)
        assert "".join(texts) == expected_text(raw, stops), (raw, stops, texts)


def test_every_token_is_counted_once_including_those_held_back() -> None:
    stream = TextStream(["猫猫"])
    fed = [bytes([byte]) for byte in "a猫b".encode()]
    events = [*map(stream.feed, fed), stream.finish()]
    assert sum(event.tokens for event in events if event is not None) == len(fed)


def test_tokens_without_text_are_counted_at_the_end() -> None:
    stream = TextStream([])
    assert stream.feed(b"") is None
    assert stream.finish() == Text("", tokens=1)
    assert TextStream([]).finish() is None


def test_log_probabilities_of_held_tokens_are_released_with_their_text() -> None:
    stream = TextStream([])
    first, second = (TokenLogprobs(Logprob("\ufffd", -1.0, token)) for token in (5, 6))
    assert stream.feed("猫".encode()[:1], first) is None
    released = stream.feed("猫".encode()[1:], second)
    pieces = (dataclasses.replace(first, piece="e7"), dataclasses.replace(second, piece="8cab"))
    assert released == Text("猫", 2, pieces)


def test_the_pieces_of_all_tokens_concatenate_to_the_text_though_some_is_held_back() -> None:
    cases: list[tuple[list[bytes], bytes, str]] = [
        ([b"a", b" st", b"o", b"ne"], b"", "a stone"),  # "sto" may begin the stop string
        (["猫".encode()[:1], "猫".encode()[1:2], "猫".encode()[2:], b" sto"], b"", "猫 sto"),
        ([b"a", b"", b"", "猫".encode()], b"", "a猫"),  # a tokenizer that waits for whole characters
        ([b"a", b"", b""], "\ufffd".encode(), "a\ufffd"),
        ([b"a", "猫".encode()[:2]], b"", "a\ufffd"),
    ]
    for pieces, rest, expected in cases:
        stream = TextStream(["stop"])
        events = [stream.feed(piece, TokenLogprobs(Logprob("", -1.0, at))) for at, piece in enumerate(pieces)]
        shown = [event for event in (*events, stream.finish(rest)) if event is not None]
        tokens = [token for event in shown for token in event.logprobs]
        assert "".join(event.text for event in shown) == expected
        assert bytes.fromhex("".join(token.piece for token in tokens)).decode("utf-8", "replace") == expected
        assert [token.chosen.id for token in tokens] == list(range(len(pieces)))


def test_an_answer_begins_with_the_character_in_which_the_prompt_ends() -> None:
    cat = "猫".encode()
    for pieces, begun in (
        ([b"a ", cat[:1]], cat[:1]),
        ([cat[1:], cat[:1], cat[1:2]], cat[:2]),
        ([cat], b""),
        ([], b""),
    ):
        assert begun_character(pieces) == begun
    stream = TextStream([], cat[:1])
    assert stream.feed(cat[1:2], TokenLogprobs(Logprob("", -1.0, 5))) is None
    whole = stream.feed(cat[2:], TokenLogprobs(Logprob("", -1.0, 6)))
    assert whole is not None
    assert (whole.text, [token.piece for token in whole.logprobs]) == ("猫", [cat[:2].hex(), cat[2:].hex()])
    assert TextStream([], cat[:1]).finish() is None


def test_the_tokens_of_a_stop_string_are_reported_though_their_text_is_dropped() -> None:
    stream = TextStream(["stop"])
    events = [stream.feed(piece, TokenLogprobs(Logprob("", -1.0, at))) for at, piece in enumerate((b"a s", b"top it"))]
    shown = [event for event in (*events, stream.finish()) if event is not None]
    assert "".join(event.text for event in shown) == "a "
    assert [token.piece for event in shown for token in event.logprobs] == [b"a s".hex(), b"top it".hex()]
