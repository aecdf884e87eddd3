"""The part of an answer that a server has sent: whole characters, stop strings, counts, and where it may be resumed."""

from __future__ import annotations

from collections.abc import Sequence

from modules.core.events import Text
from modules.engines.served.answer_so_far import AnswerSoFar, continuation
from modules.engines.served.server_kind import Piece, ServedPrompt


def answer_of(*stops: str, length: int = -1) -> AnswerSoFar:
    times = iter(range(100))
    return AnswerSoFar(ServedPrompt("x", shortened=2, length=length), 7, stops, True, lambda: next(times))


def shown(answer: AnswerSoFar, *pieces: Piece) -> str:
    texts = [answer.feed(piece) for piece in pieces] + [answer.finish()]
    return "".join(text.text for text in texts if text is not None)


def test_halves_of_characters_are_joined_and_a_lost_one_is_replaced() -> None:
    pieces = (Piece("a\ud83d", 1), Piece("\ude00b", 1), Piece("\ude00c\ud83d", 1), Piece("d", 1), Piece("世\ud83d", 1))
    assert shown(answer_of(), *pieces) == "a😀b\ufffdc\ufffdd世\ufffd"


def test_half_a_character_at_the_end_follows_what_was_held_back_for_a_stop_string() -> None:
    for stops in (("END",), ("END", "\ufffdEND")):
        assert shown(answer_of(*stops), Piece("one E", 2), Piece("\ud83d", 1)) == "one E\ufffd"


def test_a_stop_string_ends_the_answer_even_if_the_server_does_not_see_it() -> None:
    answer = answer_of("END")
    assert shown(answer, Piece("one E", 2), Piece("ND two", 2), Piece(" three", 1)) == "one "
    assert (answer.done().reason, answer.done().stop_string) == ("stop", "END")
    lost = answer_of("END")
    assert shown(lost, Piece("one EN", 2)) == "one EN" and not lost.is_complete


def test_the_end_has_the_counts_of_the_server_or_else_our_own() -> None:
    answer = answer_of(length=4)
    shown(answer, Piece("ab", 2, reason="length"))
    done = answer.done()
    assert (done.prompt_tokens, done.completion_tokens, done.shortened, done.seed) == (4, 2, 2, 7)
    assert (done.prompt_seconds, done.decode_seconds, done.reason) == (1, 0, "length")
    counted = answer_of()
    shown(counted, Piece("a", 1), Piece("", reason="stop", stop_string="#"))
    assert counted.feed(Piece(prompt_tokens=9, cached_tokens=3, completion_tokens=5)) is None
    done = counted.done()
    assert (done.prompt_tokens, done.cached_tokens, done.completion_tokens, done.stop_string) == (9, 3, 5, "#")


def test_no_more_tokens_are_cached_than_the_prompt_has() -> None:
    answer = answer_of()
    answer.feed(Piece("a", 1, reason="stop", prompt_tokens=5, cached_tokens=9))
    assert (answer.done().prompt_tokens, answer.done().cached_tokens) == (5, 5)


def test_tokens_without_text_are_counted_with_the_next_text() -> None:
    answer = answer_of()
    assert answer.feed(Piece("", 1)) is None and answer.has_begun
    assert answer.feed(Piece("世", 1)) == Text("世", 2)


WORDS = {1: b"<s>", 2: b" one", 3: "世".encode()[:1], 4: "世".encode()[1:], 5: b" END"}


def decode(tokens: Sequence[int]) -> str:
    return b"".join(WORDS[token] for token in tokens).decode("utf-8", "replace")


def test_an_answer_goes_on_where_its_tokens_end_between_characters() -> None:
    assert continuation((1, 2), [2, 2], " one one", decode) == ([2, 2], "")
    assert continuation((1, 2), [2, 5], " one", decode) == ([2, 5], " END")  # held back for a stop string
    assert continuation((1, 2), [2, 3], " one", decode) == ([2], "")
    assert continuation((1, 2), [2, 3, 4], " one世", decode) == ([2, 3, 4], "")
    assert continuation((1, 2), [3], "", decode) is None
    assert continuation((1, 2), [2], " two", decode) is None
    assert continuation((1, 2), [2, 3], " one\ufffd", decode) is None


def test_the_tokens_of_a_resumed_answer_are_counted_once() -> None:
    answer = answer_of()
    shown(answer, Piece(" one", 1, (2,), prompt_ids=(1, 2)))
    assert answer.resumed([2], " EN") == Text(" EN", 0)
    shown(answer, Piece(" one", 1, (2,), reason="stop", prompt_tokens=3, completion_tokens=1))
    done = answer.done()
    assert (done.prompt_tokens, done.completion_tokens) == (2, 2)
