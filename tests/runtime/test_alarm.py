"""An alarm rings at the earliest time that it was set to."""

from __future__ import annotations

import threading
import time

import pytest

from modules.runtime.alarm import Alarm


def test_it_rings_at_the_earliest_time_and_can_be_set_again() -> None:
    rung = threading.Event()
    alarm = Alarm(time.monotonic, rung.set)
    alarm.set(None)
    alarm.set(time.monotonic() + 60)
    alarm.set(time.monotonic() + 0.02)
    alarm.set(time.monotonic() + 60)
    assert rung.wait(5)
    rung.clear()
    alarm.set(time.monotonic() + 0.02)
    assert not rung.wait(0.05), "nobody has noted that it rang"
    alarm.has_rung()
    alarm.set(time.monotonic() - 1)
    assert rung.wait(5)


def test_it_can_be_cancelled() -> None:
    rung = threading.Event()
    alarm = Alarm(time.monotonic, rung.set)
    alarm.set(time.monotonic() + 0.02)
    alarm.cancel()
    assert not rung.wait(0.05)
    alarm.set(time.monotonic())
    assert rung.wait(5)


def test_it_can_be_set_to_a_time_that_no_thread_can_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    rung = threading.Event()
    alarm = Alarm(time.monotonic, rung.set)
    alarm.set(1e12)
    assert not rung.wait(0.05)
    alarm.cancel()
    assert not failed
