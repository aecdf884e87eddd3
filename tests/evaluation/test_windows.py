"""Plans of windows, against hand-written ones and against the published rules of lm-eval and llama-perplexity."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from modules.evaluation.windows import CHUNKS, ROLLING, Window, plan_windows

BOS = -1


def split(windows: Iterable[Window]) -> list[tuple[list[int], list[int]]]:
    """Return the context and the targets of every window."""
    return [(list(window.tokens[: window.first]), list(window.tokens[window.first :])) for window in windows]


def test_rolling_windows_are_those_written_by_hand() -> None:
    assert split(plan_windows(range(7), ROLLING, stride=2, length=4)) == [
        ([0], [1, 2, 3]),
        ([2, 3], [4, 5]),
        ([3, 4, 5], [6]),
    ]
    assert split(plan_windows(range(7), ROLLING, stride=2, length=4, bos=BOS)) == [
        ([BOS], [0, 1, 2]),
        ([BOS, 2], [3, 4]),
        ([BOS, 4], [5, 6]),
    ]


def test_rolling_scores_every_token_once_with_all_that_fits_before_it(subtests: pytest.Subtests) -> None:
    for count in (2, 3, 9, 10, 11, 57):
        for length in (4, 5, 10):
            for stride in range(1, length + 1):
                for bos in (None, BOS):
                    with subtests.test(count=count, length=length, stride=stride, bos=bos):
                        windows = plan_windows(range(count), ROLLING, stride, length, bos)
                        assert all(len(window.tokens) <= length and window.first > 0 for window in windows)
                        assert all((window.tokens[0] == BOS) == (bos is not None) for window in windows)
                        assert all(BOS not in window.tokens[1:] for window in windows)
                        scored = [token for _, targets in split(windows) for token in targets]
                        assert scored == list(range(bos is None, count))
                        assert all(window.start == window.tokens[window.first] for window in windows)
                        for window in windows[1:]:
                            assert window.targets <= stride and (len(window.tokens) == length or len(windows) == 1)


def lm_eval_rule(ids: list[int], prefix: int, length: int) -> list[tuple[list[int], list[int]]]:
    """Return the windows that lm-eval documents for loglikelihood_rolling: disjoint targets, one token of context.

    Its last window is filled up with context; the first begins with the prefix token.
    """
    found, scored = [([prefix, *ids[:length][:-1]], ids[:length])], length
    while scored < len(ids):
        end = min(scored + length, len(ids))
        found.append((ids[end - length - 1 : end - 1], ids[scored:end]))
        scored = end
    return found


def test_with_one_bos_and_disjoint_targets_the_windows_are_those_of_lm_eval(subtests: pytest.Subtests) -> None:
    for count in (1, 9, 10, 11, 20, 34):
        with subtests.test(count=count):
            windows = plan_windows(range(count), ROLLING, stride=10, length=11, bos=BOS, bos_once=True)
            expected = lm_eval_rule(list(range(count)), BOS, 10)
            assert [(list(window.tokens[:-1]), list(window.tokens[window.first :])) for window in windows] == expected


def test_chunks_score_the_second_half_and_drop_the_rest() -> None:
    windows = plan_windows(range(1100), CHUNKS, stride=7, length=512)
    assert [(window.tokens[0], window.tokens[-1], window.first, window.targets) for window in windows] == [
        (0, 511, 257, 255),
        (512, 1023, 257, 255),
    ]
    assert [window.start for window in windows] == [257, 512 + 257]


def test_bos_precedes_the_text_and_replaces_the_first_token_of_every_further_chunk() -> None:
    assert split(plan_windows(range(12), CHUNKS, stride=1, length=4, bos=BOS)) == [
        ([BOS, 0, 1], [2]),
        ([BOS, 4, 5], [6]),
        ([BOS, 8, 9], [10]),
    ]
    assert [window.start for window in plan_windows(range(12), CHUNKS, 1, 4, BOS)] == [2, 6, 10]


def test_a_text_that_is_too_short_has_no_windows() -> None:
    plans = [plan_windows([], ROLLING, 1, 4), plan_windows([5], ROLLING, 1, 4), plan_windows([], ROLLING, 1, 4, BOS)]
    assert [len(plan) for plan in [*plans, plan_windows(range(511), CHUNKS, 1, 512)]] == [0] * 4
    assert list(plan_windows([5], ROLLING, 1, 4, BOS)) == [Window([BOS, 5], 1, 0)]


def test_a_plan_of_many_long_windows_takes_little_memory() -> None:
    windows = plan_windows(range(200_000), ROLLING, stride=1, length=2048)
    assert len(windows) == 1 + 200_000 - 2048
    assert split(windows[-1:]) == [(list(range(197_952, 199_999)), [199_999])]
