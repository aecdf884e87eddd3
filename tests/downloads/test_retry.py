"""How often and after how long a download is retried, and when the next mirror takes over."""

from __future__ import annotations

import time

import pytest

from modules.downloads.retry import MirrorRotation, RetryPolicy
from modules.hub.errors import AccessDenied, MirrorUnreachable, RateLimited, RepositoryNotFound, ServerFault

EXACT = RetryPolicy(jitter=0)
FAULT = ServerFault("host", 503)


def seconds(rotation: MirrorRotation[str], progress: int = 0) -> float:
    waiting = rotation.record_failure(FAULT, progress)
    assert waiting
    return round(waiting.until - time.monotonic(), 1)


def test_six_retries_with_growing_waits() -> None:
    rotation = MirrorRotation(EXACT, ["a"], [])
    assert [seconds(rotation) for _ in range(6)] == [1, 2, 4, 8, 16, 30]
    with pytest.raises(ServerFault):
        rotation.record_failure(FAULT)


def test_64_kib_of_progress_make_up_for_everything() -> None:
    rotation = MirrorRotation(EXACT, ["a"], [])
    assert [seconds(rotation), seconds(rotation), seconds(rotation, (64 << 10) - 1), seconds(rotation, 64 << 10)] == [
        1,
        2,
        4,
        1,
    ]


def test_waits_vary_by_half_so_that_not_all_come_back_max_running() -> None:
    first = [seconds(MirrorRotation(RetryPolicy(), ["a"], [])) for _ in range(200)]
    assert 0.5 <= min(first) < 0.7 and 1.3 < max(first) <= 1.5


def test_a_mirror_that_names_a_time_is_given_that_time() -> None:
    rotation = MirrorRotation(EXACT, ["a"], [])
    waiting = rotation.record_failure(RateLimited("host", 250))
    assert waiting and 249 < waiting.until - time.monotonic() <= 250
    assert (waiting.attempt, waiting.attempts) == (1, 6)


def test_the_next_mirror_takes_over_with_rotation_of_its_own() -> None:
    rotation = MirrorRotation(EXACT, ["a", "b"], [])
    assert rotation.record_failure(AccessDenied("user/model")) is None
    assert rotation.current == "b" and seconds(rotation) == 1


def test_nobody_waits_long_for_one_mirror_while_there_is_another() -> None:
    rotation = MirrorRotation(EXACT, ["a", "b"], [])
    assert [seconds(rotation), seconds(rotation)] == [1, 2]
    assert rotation.record_failure(FAULT) is None
    assert [seconds(rotation) for _ in range(6)] == [1, 2, 4, 8, 16, 30]


def test_the_error_that_will_not_pass_is_the_one_that_is_told() -> None:
    rotation = MirrorRotation(RetryPolicy(waits=()), ["a", "b"], [])
    assert rotation.record_failure(RepositoryNotFound("host", "user/model")) is None
    with pytest.raises(RepositoryNotFound):
        rotation.record_failure(MirrorUnreachable("other", "refused"))


def test_a_mirror_that_was_waited_for_in_vain_is_not_waited_for_by_the_next() -> None:
    unreachable: list[str] = []
    first = MirrorRotation(RetryPolicy(waits=()), ["a", "b"], unreachable)
    assert first.record_failure(FAULT) is None and first.current == "b"
    assert unreachable == ["a"] and MirrorRotation(EXACT, ["a", "b"], unreachable).current == "b"


def test_if_all_are_unreachable_they_are_tried_again_in_their_order() -> None:
    assert MirrorRotation(EXACT, ["a", "b"], ["a", "b"]).current == "a"


def test_a_mirror_that_refuses_one_file_is_asked_for_the_next() -> None:
    unreachable: list[str] = []
    MirrorRotation(EXACT, ["a", "b"], unreachable).record_failure(AccessDenied("user/model"))
    assert unreachable == []
