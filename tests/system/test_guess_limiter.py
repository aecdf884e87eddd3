"""Delays for addresses that send wrong secrets. The clock is a variable."""

from __future__ import annotations

import logging

import pytest

from modules.system import guess_limiter
from modules.system.guess_limiter import FREE_MISSES, GuessLimiter, network


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guesses(clock: Clock) -> GuessLimiter:
    return GuessLimiter(clock)


def miss(guesses: GuessLimiter, times: int, address: str = "192.0.2.1") -> None:
    for _ in range(times):
        guesses.missed(address)


def test_nine_misses_cost_nothing(guesses: GuessLimiter) -> None:
    miss(guesses, 9)
    assert guesses.delay("192.0.2.1") == 0


def test_after_ten_misses_the_delay_doubles_up_to_five_minutes(guesses: GuessLimiter, clock: Clock) -> None:
    miss(guesses, 9)
    delays = []
    for _ in range(12):
        miss(guesses, 1)
        delays.append(guesses.delay("192.0.2.1"))
        clock.seconds += delays[-1]
        assert guesses.delay("192.0.2.1") == 0
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_another_address_is_not_delayed(guesses: GuessLimiter) -> None:
    miss(guesses, 20)
    assert guesses.delay("192.0.2.1") and not guesses.delay("192.0.2.2")


def test_a_success_or_an_hour_of_peace_clears_the_count(guesses: GuessLimiter, clock: Clock) -> None:
    miss(guesses, 9)
    guesses.succeeded("192.0.2.1")
    miss(guesses, 9)
    clock.seconds += 3601
    miss(guesses, 1)
    assert guesses.delay("192.0.2.1") == 0


def test_one_warning_is_logged_for_an_address(guesses: GuessLimiter, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        miss(guesses, 30)
    (record,) = caplog.records
    assert "192.0.2.1" in record.getMessage()


def test_the_number_of_remembered_addresses_is_bounded(guesses: GuessLimiter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guess_limiter, "MAX_ADDRESSES", 3)
    for number in range(5):
        miss(guesses, FREE_MISSES, f"192.0.2.{number}")
    assert [bool(guesses.delay(f"192.0.2.{number}")) for number in range(5)] == [False, False, True, True, True]


def test_an_ipv6_network_counts_as_one_address() -> None:
    assert network("2001:db8::1") == network("2001:db8::ffff:2") != network("2001:db8:0:1::1")
    assert network("::ffff:192.0.2.1") == "192.0.2.1" == network("192.0.2.1")
    assert (network("fe80::1%eth0"), network("::1"), network("a socket")) == ("fe80::/64", "::1", "a socket")
