"""Number and delays of retries, and when the next mirror takes over."""

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


def test_there_are_six_retries_with_growing_waits() -> None:
    rotation = MirrorRotation(EXACT, ["a"], [])
    assert [seconds(rotation) for _ in range(6)] == [1, 2, 4, 8, 16, 30]
    with pytest.raises(ServerFault):
        rotation.record_failure(FAULT)


def test_64_kib_of_progress_reset_the_retry_count() -> None:
    rotation = MirrorRotation(EXACT, ["a"], [])
    assert [seconds(rotation), seconds(rotation), seconds(rotation, (64 << 10) - 1), seconds(rotation, 64 << 10)] == [
        1,
        2,
        4,
        1,
    ]


def test_waits_vary_by_half_so_that_clients_do_not_retry_at_the_same_time() -> None:
    waits = [seconds(MirrorRotation(RetryPolicy(), ["a"], [])) for _ in range(200)]
    assert 0.5 <= min(waits) < 0.7 and 1.3 < max(waits) <= 1.5


def test_the_wait_of_a_rate_limit_is_honored() -> None:
    rotation = MirrorRotation(EXACT, ["a"], [])
    waiting = rotation.record_failure(RateLimited("host", 250))
    assert waiting and 249 < waiting.until - time.monotonic() <= 250
    assert (waiting.attempt, waiting.attempts) == (1, 6)


def test_the_next_mirror_has_its_own_retry_count() -> None:
    rotation = MirrorRotation(EXACT, ["a", "b"], [])
    assert rotation.record_failure(AccessDenied("user/model")) is None
    assert rotation.current == "b" and seconds(rotation) == 1


def test_a_mirror_is_abandoned_sooner_if_another_is_left() -> None:
    rotation = MirrorRotation(EXACT, ["a", "b"], [])
    assert [seconds(rotation), seconds(rotation)] == [1, 2]
    assert rotation.record_failure(FAULT) is None
    assert [seconds(rotation) for _ in range(6)] == [1, 2, 4, 8, 16, 30]


def test_a_permanent_error_is_reported_rather_than_an_unreachable_mirror() -> None:
    rotation = MirrorRotation(RetryPolicy(waits=()), ["a", "b"], [])
    assert rotation.record_failure(RepositoryNotFound("host", "user/model")) is None
    with pytest.raises(RepositoryNotFound):
        rotation.record_failure(MirrorUnreachable("other", "refused"))


def test_an_unreachable_mirror_is_skipped_by_later_rotations() -> None:
    unreachable: list[str] = []
    rotation = MirrorRotation(RetryPolicy(waits=()), ["a", "b"], unreachable)
    assert rotation.record_failure(FAULT) is None and rotation.current == "b"
    assert unreachable == ["a"] and MirrorRotation(EXACT, ["a", "b"], unreachable).current == "b"


def test_unreachable_mirrors_are_used_in_order_if_there_are_no_others() -> None:
    assert MirrorRotation(EXACT, ["a", "b"], ["a", "b"]).current == "a"


def test_a_mirror_with_a_permanent_error_is_not_skipped() -> None:
    unreachable: list[str] = []
    MirrorRotation(EXACT, ["a", "b"], unreachable).record_failure(AccessDenied("user/model"))
    assert unreachable == []
