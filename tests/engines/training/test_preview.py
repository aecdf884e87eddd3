"""A preview shows rows token by token, and how long all of them are."""

from __future__ import annotations

from modules.engines.training.preview import MOST_TOKENS, histogram, preview, within
from modules.engines.training.samples import Sample
from modules.engines.training.tokens import Limits, OffsetTokenizer
from tests.engines.training.test_tokens import Letters

TOKENIZER = OffsetTokenizer(Letters())


def chat(row: int, answer: str) -> Sample:
    return Sample(row, (("Q:", False), (answer, True)), eos=True)


def test_trained_tokens_and_special_tokens_are_marked() -> None:
    shown = preview([chat(4, "ab")], TOKENIZER, Limits(100))
    example = shown["examples"][0]
    assert (example["kind"], example["row"], example["tokens"]) == ("first", 4, 6)
    assert [piece[1] for piece in example["pieces"]] == [False, False, False, True, True, True]
    assert [piece[2] for piece in example["pieces"]] == ["<bos>", "", "", "", "", "<eos>"]
    assert "".join(piece[0] for piece in example["pieces"]) == "Q:ab"
    assert (shown["beginning"], shown["eos"]) == (["<bos>"], "<eos>")


def test_the_first_the_longest_and_a_random_row_are_shown() -> None:
    samples = [chat(row, "a" * row) for row in (3, 9, 5)]
    rows = [[example["row"] for example in preview(samples, TOKENIZER, Limits(9), seed)["examples"]] for seed in (0, 1)]
    assert [first for first, _, _ in rows] == [3, 3]
    assert [longest for _, longest, _ in rows] == [9, 9]
    assert rows[0] != rows[1]


def test_what_is_too_long_is_counted_and_shown_with_its_cut() -> None:
    samples = [chat(1, "a"), chat(2, "a" * 10)]
    shown = preview(samples, TOKENIZER, Limits(8, truncate=True))
    assert (shown["rows"], shown["dropped"], shown["truncated"]) == (2, 0, 1)
    assert [example["cut"] for example in shown["examples"]][:2] == [0, 6]
    assert preview(samples, TOKENIZER, Limits(8))["dropped"] == 1
    assert (shown["longest"], shown["trained_tokens"]) == (14, 2 + 5)


def test_a_window_shows_its_overlap_as_context() -> None:
    text = Sample(1, (("abcdefghij", True),), raw=True)
    shown = preview([text], TOKENIZER, Limits(6, overlap_len=2), seed=1)
    texts = {"".join(piece[0] for piece in example["pieces"]) for example in shown["examples"]}
    trained = [
        "".join(text for text, is_trained, _ in example["pieces"] if is_trained) for example in shown["examples"]
    ]
    assert texts == {"abcde", "hij"}
    assert set(trained) == {"abcde", "j"}
    assert shown["histogram"]["counts"] == [0, 0, 0, 1, 0, 0, 2]


def test_a_long_row_is_shown_up_to_a_limit() -> None:
    (first, *_) = preview([chat(1, "a" * 3000)], TOKENIZER, Limits(5000))["examples"]
    assert (len(first["pieces"]), first["hidden"]) == (MOST_TOKENS, 3004 - MOST_TOKENS)


def test_of_large_data_the_first_the_longest_and_others_are_tokenized() -> None:
    samples = [chat(row, "a" * (50 if row == 77 else 8)) for row in range(1, 101)]
    kept = within(samples, 200)
    assert kept[0].row == 1 and 77 in [sample.row for sample in kept]
    assert 10 < len(kept) < 25
    (cut,) = within([Sample(1, (("a" * 500, True),), raw=True)], 200)
    assert len(cut.text) == 200


def test_no_usable_row_has_no_example() -> None:
    assert preview([], TOKENIZER, Limits(8))["examples"] == []
    assert histogram([]) == {"width": 1, "counts": [0]}


def test_the_histogram_has_round_widths() -> None:
    assert histogram([0, 9, 10, 239]) == {"width": 10, "counts": [2, 1, *[0] * 21, 1]}
    assert histogram([240])["width"] == 20
