"""How often it is tried again, after how long, and when the next mirror takes over."""

from __future__ import annotations

import time

import pytest

from modules.downloads.retry import Pace, Tries
from modules.hub.errors import AccessDenied, MirrorUnreachable, RateLimited, RepositoryNotFound, ServerFault

EXACT = Pace(spread=0)
FAULT = ServerFault("host", 503)


def seconds(tries: Tries[str], progress: int = 0) -> float:
    waiting = tries.failed(FAULT, progress)
    assert waiting
    return round(waiting.until - time.monotonic(), 1)


def test_it_is_tried_six_times_more_with_growing_waits() -> None:
    tries = Tries(EXACT, ["a"], [])
    assert [seconds(tries) for _ in range(6)] == [1, 2, 4, 8, 16, 30]
    with pytest.raises(ServerFault):
        tries.failed(FAULT)


def test_64_kib_of_progress_make_up_for_everything() -> None:
    tries = Tries(EXACT, ["a"], [])
    assert [seconds(tries), seconds(tries), seconds(tries, (64 << 10) - 1), seconds(tries, 64 << 10)] == [1, 2, 4, 1]


def test_waits_vary_by_half_so_that_not_all_come_back_at_once() -> None:
    first = [seconds(Tries(Pace(), ["a"], [])) for _ in range(200)]
    assert 0.5 <= min(first) < 0.7 and 1.3 < max(first) <= 1.5


def test_a_mirror_that_names_a_time_is_given_that_time() -> None:
    tries = Tries(EXACT, ["a"], [])
    waiting = tries.failed(RateLimited("host", 250))
    assert waiting and 249 < waiting.until - time.monotonic() <= 250
    assert (waiting.attempt, waiting.attempts) == (1, 6)


def test_the_next_mirror_takes_over_with_tries_of_its_own() -> None:
    tries = Tries(EXACT, ["a", "b"], [])
    assert tries.failed(AccessDenied("user/model")) is None
    assert tries.mirror == "b" and seconds(tries) == 1


def test_nobody_waits_long_for_one_mirror_while_there_is_another() -> None:
    tries = Tries(EXACT, ["a", "b"], [])
    assert [seconds(tries), seconds(tries)] == [1, 2]
    assert tries.failed(FAULT) is None
    assert [seconds(tries) for _ in range(6)] == [1, 2, 4, 8, 16, 30]


def test_the_error_that_will_not_pass_is_the_one_that_is_told() -> None:
    tries = Tries(Pace(waits=()), ["a", "b"], [])
    assert tries.failed(RepositoryNotFound("host", "user/model")) is None
    with pytest.raises(RepositoryNotFound):
        tries.failed(MirrorUnreachable("other", "refused"))


def test_a_mirror_that_was_waited_for_in_vain_is_not_waited_for_by_the_next() -> None:
    lost: list[str] = []
    first = Tries(Pace(waits=()), ["a", "b"], lost)
    assert first.failed(FAULT) is None and first.mirror == "b"
    assert lost == ["a"] and Tries(EXACT, ["a", "b"], lost).mirror == "b"


def test_if_all_are_lost_they_are_tried_again_in_their_order() -> None:
    assert Tries(EXACT, ["a", "b"], ["a", "b"]).mirror == "a"


def test_a_mirror_that_refuses_one_file_is_asked_for_the_next() -> None:
    lost: list[str] = []
    Tries(EXACT, ["a", "b"], lost).failed(AccessDenied("user/model"))
    assert lost == []
