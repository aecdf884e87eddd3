"""Which failures are tried again, and after how long."""

from __future__ import annotations

import datetime
from email.utils import format_datetime

import pytest

from modules.core.errors import WebUIError, both
from modules.core.server_errors import (
    ServerBrokeOff,
    ServerBusy,
    ServerFailed,
    ServerLost,
    ServerNotUnderstood,
    ServerRefused,
    ServerSilent,
    ServerUnreachable,
)
from modules.engines.served.faults import wait_of
from modules.engines.served.retries import Retries

HERE = "http://host"


def pauses(*errors: WebUIError) -> list[float | None]:
    retries = Retries()
    return [retries.pause_after(error) for error in errors]


def test_what_may_pass_is_tried_three_times_more(subtests: pytest.Subtests) -> None:
    for error in (
        *(ServerUnreachable(HERE, both("x")), ServerLost(HERE, both("x"))),
        *(ServerFailed(HERE, status, "x") for status in (502, 503, 504)),
    ):
        with subtests.test(error=type(error).__name__):
            assert pauses(*[error] * 4) == [0.2, 1.0, 3.0, None]
    assert pauses(ServerFailed(HERE, 503, "x", 7.0)) == [7.0]


def test_what_is_final_is_not_tried_again() -> None:
    final = [ServerRefused(HERE, status, "x") for status in (400, 401, 404, 413, 422)]
    others = [ServerSilent(HERE, both("x")), ServerBrokeOff(HERE, both("x")), ServerNotUnderstood(HERE, "/", both("x"))]
    assert pauses(*final, *others, ServerFailed(HERE, 500, "x")) == [None] * 9


def test_a_busy_server_is_asked_for_thirty_seconds() -> None:
    assert pauses(*[ServerBusy(HERE, 429, "x")] * 6) == [1, 2, 4, 8, 8, None]
    assert pauses(*[ServerBusy(HERE, 429, "x", 12.0)] * 3) == [12, 12, None]


def test_the_wait_that_a_server_asks_for_is_read_and_bounded() -> None:
    def of(text: str) -> float:
        return wait_of({"retry-after": text})

    assert [of(text) for text in ("3", "0", "999999999", "-1", "soon", "1e9", "9" * 400)] == [3, 0, 30, 0, 0, 0, 0]
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=20)
    assert 15 < of(format_datetime(soon, usegmt=True)) <= 20
    assert of("Wed, 21 Oct 2015 07:28:00 GMT") == 0 and wait_of({}) == 0
