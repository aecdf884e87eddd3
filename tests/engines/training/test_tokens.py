"""Samples become token ids of which exactly the trained parts are labels."""

from __future__ import annotations

import random
from typing import Any

from modules.engines.training.samples import Sample, joined
from modules.engines.training.tokens import (
    IGNORED,
    Limits,
    OffsetTokenizer,
    Tokenized,
    TokenRow,
    tokenize,
    trained_tokens,
    windows,
)

BOS, EOS = 1, 2


class Letters:
    """A tokenizer written in Python: a token for each character, BOS before texts, and <eos> as a special token."""

    eos_token_id = EOS
    all_special_ids = (BOS, EOS)

    def __init__(self, bos: bool = True) -> None:
        self.bos = bos

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        ids = [BOS] if self.bos and add_special_tokens else []
        for index, part in enumerate(text.split("<eos>")):
            ids += [EOS] * bool(index) + [ord(letter) for letter in part]
        return {"input_ids": ids}

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(self.convert_ids_to_tokens, tokens))

    def convert_ids_to_tokens(self, token: int) -> str:
        return {BOS: "<bos>", EOS: "<eos>"}.get(token, chr(token))


def rows_of(*samples: Sample, bos: bool = True, **limits: Any) -> Tokenized:
    return tokenize(samples, OffsetTokenizer(Letters(bos)), Limits(**{"cutoff_len": 100, **limits}))


def learned(row: TokenRow) -> str:
    """Return the trained tokens as a text."""
    return "".join("<eos>" if label == EOS else chr(label) for label in row.labels if label != IGNORED)


def test_the_answer_is_trained_with_the_eos_token_behind_it() -> None:
    (row,) = rows_of(Sample(1, (("Q: ", False), ("yes", True)), eos=True)).rows
    assert row.tokens == [BOS, *map(ord, "Q: yes"), EOS]
    assert learned(row) == "yes<eos>"


def test_specials_that_the_text_has_are_not_added_again() -> None:
    (row,) = rows_of(Sample(1, (("a", True), ("b<eos>", True)), eos=True), bos=False).rows
    assert row.tokens == [ord("a"), ord("b"), EOS]
    (row,) = rows_of(Sample(1, ((chr(BOS) + "a", False), ("b", True)))).rows
    assert row.tokens.count(BOS) == 1


def test_long_rows_are_dropped_or_truncated_and_counted() -> None:
    long, short = Sample(1, (("Q", False), ("abcdef", True))), Sample(2, (("Q", False), ("ab", True)))
    hidden = Sample(3, (("Q" * 9, False), ("ab", True)))
    dropped = rows_of(long, short, hidden, cutoff_len=5)
    assert ([row.row for row in dropped.rows], dropped.dropped) == ([2], [1, 3])
    truncated = rows_of(long, short, hidden, cutoff_len=5, truncate=True)
    assert [learned(row) for row in truncated.rows] == ["abc", "ab"]
    assert (truncated.truncated, truncated.untrained) == ([1, 3], [3])


def test_a_row_whose_only_trained_token_is_the_first_one_is_left_out() -> None:
    assert rows_of(Sample(7, (("a", True), ("b", False))), bos=False).untrained == [7]


def test_a_token_across_the_beginning_of_an_answer_is_trained() -> None:
    segments = (("ab ", False), ("cd", True), ("\n", False))
    assert trained_tokens([(0, 2), (2, 5), (5, 6)], segments) == [False, True, False]
    assert trained_tokens([(0, 3), (3, 3), (3, 5), (6, 6)], segments) == [False, True, True, False]


def test_windows_lose_no_token_and_train_none_twice() -> None:
    generator = random.Random(4)
    for _ in range(300):
        text = "".join(generator.choice("ab\n") for _ in range(generator.randrange(2, 200)))
        cutoff = generator.randrange(4, 40)
        limits = {"overlap_len": generator.randrange(cutoff), "newline_favor_len": generator.randrange(cutoff)}
        rows = rows_of(Sample(1, ((text, True),), eos=True, raw=True), cutoff_len=cutoff, **limits).rows
        assert "".join(map(learned, rows)) == text + "<eos>"
        assert max(len(row.tokens) for row in rows) <= cutoff


def test_a_window_prefers_to_end_behind_a_line_break() -> None:
    ends = [letter == "\n" for letter in "aaa\naaaaaaaaaaaa"]
    assert list(windows(ends, Limits(6, overlap_len=2, newline_favor_len=2)))[:2] == [(0, 4), (2, 8)]
    assert next(windows(ends, Limits(6, overlap_len=2, newline_favor_len=1))) == (0, 6)


def test_segments_of_one_kind_are_merged() -> None:
    assert joined([("a", False), ("", True), ("b", False), ("c", True)]) == (("ab", False), ("c", True))


def test_a_sample_survives_its_file() -> None:
    sample = Sample(3, (("问\u2028", False), ("答\n", True)), eos=True)
    assert Sample.from_line(sample.to_line()) == sample
    assert sample.to_line().count(b"\n") == 1
