"""From tokens' bytes to text that may be shown: whole characters, and no part of a stop string."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest

from modules.core.events import Logprob, Text, TokenChances
from modules.engines.text_stream import TextStream

MIXED = "né 猫です 👩‍👧 🇫🇷 a\u0301 ok"


def shown(pieces: Iterable[bytes], stops: Sequence[str] = ()) -> list[str]:
    """The texts that go out, one after the other; feeding ends where the stream says so."""
    stream = TextStream(stops)
    events: list[Text | None] = []
    for piece in pieces:
        events.append(stream.feed(piece))
        if stream.stopped:
            break
    events.append(stream.finish())
    return [event.text for event in events if event is not None]


def whole(raw: bytes, stops: Sequence[str]) -> str:
    """What should be seen of `raw`: up to the stop string that is complete first, and of several the longest."""
    text = raw.decode("utf-8", "replace")
    for end in range(len(text) + 1):
        met = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))]
    return text


def cut(raw: bytes, chance: random.Random) -> list[bytes]:
    pieces = []
    while raw:
        size = chance.choice((1, 1, 2, 3, 5))
        pieces.append(raw[:size])
        raw = raw[size:]
    return pieces


def test_plain_text_goes_out_as_it_comes() -> None:
    assert shown([b"Hello", b" world", b"!"]) == ["Hello", " world", "!"]


def test_a_character_split_between_pieces_waits_for_its_other_bytes(subtests: pytest.Subtests) -> None:
    for place in range(len(MIXED.encode()) + 1):
        with subtests.test(place=place):
            raw = MIXED.encode()
            texts = shown([raw[:place], raw[place:]])
            assert "".join(texts) == MIXED
            assert not any("\ufffd" in text for text in texts)


def test_one_byte_at_a_time_is_one_character_at_a_time() -> None:
    assert shown(bytes([byte]) for byte in MIXED.encode()) == list(MIXED)


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    assert shown([b"cat ", "猫".encode()[:2]]) == ["cat ", "\ufffd"]


def test_bytes_that_are_no_utf8_do_not_stop_what_follows() -> None:
    assert "".join(shown([b"a\xff", b"b\xe7\x8c", b"c"])) == "a\ufffdb\ufffdc"


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


def test_neither_a_stop_string_nor_its_beginning_is_shown(subtests: pytest.Subtests) -> None:
    for pieces, stops, texts in STOPPED:
        with subtests.test(pieces=pieces, stops=stops):
            assert [text for text in shown((piece.encode() for piece in pieces), stops) if text] == [
                t for t in texts if t
            ]


def test_of_two_stop_strings_that_end_together_the_longer_one_is_taken() -> None:
    for stops in (["b", "ab"], ["ab", "b"]):
        assert "".join(shown([b"x", b"a", b"b"], stops)) == "x"
        assert "".join(shown([b"xab"], stops)) == "x"


def test_of_two_stop_strings_the_one_complete_first_is_taken_however_the_tokens_fall() -> None:
    assert "".join(shown([b"xa", b"b", b"c"], ["abc", "b"])) == "xa"
    assert "".join(shown([b"xabc"], ["abc", "b"])) == "xa"


def test_what_is_shown_does_not_depend_on_how_the_tokens_fall() -> None:
    chance = random.Random(7)
    alphabet = ["a", "b", "猫", "猫", "é", "🇫"]
    for _ in range(3000):
        raw = "".join(chance.choices(alphabet, k=chance.randrange(12))).encode()
        if chance.random() < 0.3:
            raw = raw[: chance.randrange(len(raw) + 1)] + b"\xff" + raw[chance.randrange(len(raw) + 1) :]
        stops = ["".join(chance.choices(alphabet, k=chance.randrange(1, 4))) for _ in range(chance.randrange(4))]
        texts = shown(cut(raw, chance), stops)
        assert "".join(texts) == whole(raw, stops), (raw, stops, texts)


def test_every_token_is_counted_once_those_held_back_included() -> None:
    stream = TextStream(["猫猫"])
    fed = [bytes([byte]) for byte in "a猫b".encode()]
    events = [*map(stream.feed, fed), stream.finish()]
    assert sum(event.tokens for event in events if event is not None) == len(fed)


def test_tokens_that_show_nothing_are_counted_at_the_end() -> None:
    stream = TextStream([])
    assert stream.feed(b"") is None
    assert stream.finish() == Text("", tokens=1)
    assert TextStream([]).finish() is None


def test_the_chances_of_held_tokens_go_out_with_their_text() -> None:
    stream = TextStream([])
    first, second = (TokenChances(Logprob(text, -1.0)) for text in ("a", "b"))
    assert stream.feed("猫".encode()[:1], first) is None
    assert stream.feed("猫".encode()[1:], second) == Text("猫", 2, (first, second))
