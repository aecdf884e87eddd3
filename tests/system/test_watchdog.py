"""A watchdog acts on operations that take too long, and on no others."""

from __future__ import annotations

import threading
import time

from modules.system.watchdog import Watchdog


def test_an_operation_that_takes_too_long_is_acted_on_once() -> None:
    watchdog, acted = Watchdog(), threading.Semaphore(0)
    with watchdog.watch(lambda: acted.release(), 0.01) as watched:
        assert acted.acquire(timeout=5)
        assert not acted.acquire(timeout=0.05)
    assert watched.timed_out


def test_a_later_operation_with_an_earlier_deadline_is_acted_on_first() -> None:
    watchdog, acted = Watchdog(), threading.Event()
    with watchdog.watch(lambda: None, 60) as slow:
        time.sleep(0.05)  # until the thread waits for that deadline
        with watchdog.watch(acted.set, 0.01) as quick:
            assert acted.wait(4)
    assert (slow.timed_out, quick.timed_out) == (False, True)


def test_an_operation_that_ends_in_time_is_left_alone_and_the_thread_serves_the_next_one() -> None:
    watchdog, acted = Watchdog(), threading.Event()
    with watchdog.watch(acted.set, 0.05) as first:
        pass
    assert not acted.wait(0.15)
    assert not first.timed_out
    with watchdog.watch(acted.set, 0.01) as second:
        assert acted.wait(5)
    assert second.timed_out
