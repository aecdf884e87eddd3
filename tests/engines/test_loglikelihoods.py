"""Windows in pieces, and results of "loglikelihoods" on their way to the main process."""

from __future__ import annotations

import json

import pytest

from modules.core.errors import OptionError
from modules.core.worker_errors import PromptTooLong
from modules.engines.loglikelihoods import MAX_LOGITS_BYTES, Loglikelihoods, Window

ROWS_OF_A_PIECE = 3
WIDE = MAX_LOGITS_BYTES // 4 // ROWS_OF_A_PIECE


def window(count: int = 8, first: int = 1, context: int = 16, vocabulary: int = 100, logits: int = 100) -> Window:
    return Window(range(count), first, context, vocabulary, logits)


def pieces(window: Window, chunk: int) -> list[tuple[int, int]]:
    """Evaluate the whole window; return how many tokens and rows of logits each piece has."""
    found, evaluated = [], 0
    while not window.complete:
        tokens, rows = window.next_piece(evaluated, chunk)
        evaluated += len(tokens)
        window.scored += rows
        found.append((len(tokens), rows))
    return found


def test_a_result_survives_its_way_to_the_main_process(subtests: pytest.Subtests) -> None:
    for result in (
        Loglikelihoods((-0.5, -2.25)),
        Loglikelihoods((-0.5, -2.25), (0.0, 0.125), (True, False)),
    ):
        with subtests.test(result=result):
            assert Loglikelihoods.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_every_target_gets_logits_once_and_the_last_token_is_not_evaluated(subtests: pytest.Subtests) -> None:
    for first, chunk, expected in (
        (1, 100, [(7, 7)]),
        (4, 100, [(7, 4)]),
        (7, 3, [(3, 0), (3, 0), (1, 1)]),
        (4, 3, [(3, 0), (3, 3), (1, 1)]),
        (3, 4, [(4, 2), (3, 3)]),
    ):
        with subtests.test(first=first, chunk=chunk):
            assert pieces(window(first=first), chunk) == expected


def test_a_piece_has_no_more_rows_of_logits_than_the_memory_allows() -> None:
    assert pieces(window(first=3, logits=WIDE), chunk=100) == [(5, ROWS_OF_A_PIECE), (2, 2)]
    assert pieces(window(first=6, logits=MAX_LOGITS_BYTES), chunk=100) == [(6, 1), (1, 1)]


def test_what_was_lost_is_evaluated_again_without_logits_for_scored_targets() -> None:
    interrupted = window(first=3)
    interrupted.scored = 2
    assert interrupted.next_piece(0, 4) == ([0, 1, 2, 3], 0)
    assert interrupted.next_piece(4, 4) == ([4, 5, 6], 3)


def test_windows_that_the_context_cannot_hold_are_refused() -> None:
    assert window(count=16).targets == list(range(1, 16))
    with pytest.raises(PromptTooLong, match="17 tokens"):
        window(count=17)


def test_targets_need_a_token_before_them_and_every_token_must_exist(subtests: pytest.Subtests) -> None:
    for refused in ({"first": 0}, {"first": 8}, {"first": -1}, {"count": 0}, {"count": 1}, {"vocabulary": 7}):
        with subtests.test(refused=refused), pytest.raises(OptionError):
            window(**refused)
