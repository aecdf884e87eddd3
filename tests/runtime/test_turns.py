"""Turns of computations that would disturb each other."""

from __future__ import annotations

import threading

from modules.core.errors import both
from modules.runtime.turns import Turns

SECONDS = 10


def test_one_works_at_a_time_in_the_order_of_the_queue() -> None:
    turns, order = Turns(), list[int]()
    waiting = [turns.queue(both(str(number))) for number in range(4)]

    def work(number: int) -> None:
        assert waiting[number].wait() and waiting[number].ahead == 0
        order.append(number)
        waiting[number].end()

    threads = [threading.Thread(target=work, args=(number,)) for number in (3, 1, 2, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert order == [0, 1, 2, 3]


def test_who_waits_is_told_what_for() -> None:
    turns = Turns()
    first, second, third = (turns.queue({"en": f"the run {name}", "zh": f"训练“{name}”"}) for name in "abc")
    assert first.waiting_for is None
    assert second.waiting_for == {"en": "Waiting for the run a.", "zh": "正在等待训练“a”结束。"}
    assert third.waiting_for == {"en": "Waiting for the run a and 1 more.", "zh": "正在等待训练“a”及另外 1 项结束。"}
    first.end()
    assert second.waiting_for is None and third.ahead == 1


def test_a_turn_that_is_given_up_ends_the_wait_and_delays_nobody() -> None:
    turns = Turns()
    first, second, third = (turns.queue(both(name)) for name in "abc")
    found = list[bool]()
    thread = threading.Thread(target=lambda: found.append(second.wait()))
    thread.start()
    second.end()
    thread.join(SECONDS)
    assert found == [False] and second.waiting_for is None and third.ahead == 1
    first.end()
    first.end()
    assert third.wait()
