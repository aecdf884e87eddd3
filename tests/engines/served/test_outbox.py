"""Events between the event loop of an engine and the thread that hands them on."""

from __future__ import annotations

import threading

from modules.core.events import Begun, Done, Logprob, Text, TokenLogprobs, Waiting
from modules.engines.served.outbox import FIRST_PAUSE_SECONDS, MOST_UNREAD, PAUSE_SECONDS, Outbox


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def box_of(*calls: int) -> tuple[Outbox, Clock, list[int]]:
    drained: list[int] = []
    clock = Clock()
    outbox = Outbox(drained.append, clock)
    for call in calls:
        outbox.open(call)
    return outbox, clock, drained


def test_texts_of_a_call_are_handed_on_as_one_before_its_end() -> None:
    outbox, clock, _ = box_of(1, 2)
    for event in (Begun(5), Waiting(2), Waiting(1), Text("a"), Text("b", 3)):
        outbox.put(1, event)
    outbox.put(2, Text("世"))
    outbox.put(1, Done("stop"))
    expected = [(1, Begun(5)), (1, Waiting(1)), (1, Text("ab", 4)), (1, Done("stop")), (2, Text("世"))]
    assert outbox.take() == expected
    outbox.put(1, Text("later"))
    clock.now += 1
    assert outbox.take() == [(1, Text("later", 1))]


def test_the_pause_grows_with_the_calls_and_the_first_text_does_not_wait() -> None:
    outbox, clock, _ = box_of(1)
    outbox.put(1, Text("first"))
    assert outbox.take()
    assert outbox.pause == PAUSE_SECONDS
    for call in range(2, 1001):
        outbox.open(call)
    assert outbox.pause == 0.25
    outbox.put(1, Text("second"))
    clock.now += 0.24
    waited = threading.Event()

    def take() -> None:
        assert outbox.take() == [(1, Text("second"))]
        waited.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert not waited.wait(0.005)
    clock.now += 0.02
    assert waited.wait(2)


def test_the_first_text_of_a_call_does_not_wait_for_the_pause_of_a_thousand() -> None:
    outbox, clock, _ = box_of(*range(1, 1001))
    outbox.put(1, Text("first"))
    assert outbox.take() == [(1, Text("first"))]
    outbox.put(1, Text("second"))
    outbox.put(2, Waiting(1))
    clock.now += FIRST_PAUSE_SECONDS + 0.001
    assert outbox.take() == [(2, Waiting(1))]
    outbox.put(2, Text("third"))
    outbox.put(3, Done("stop"))
    clock.now += FIRST_PAUSE_SECONDS + 0.001
    assert sorted(outbox.take(), key=lambda one: one[0]) == [(2, Text("third")), (3, Done("stop"))]
    clock.now += outbox.pause
    assert outbox.take() == [(1, Text("second"))]


def test_a_closed_call_gets_nothing_and_an_interruption_ends_the_wait() -> None:
    outbox, _, _ = box_of(1)
    outbox.put(1, Text("a"))
    outbox.close(1)
    outbox.put(1, Text("b"))
    taken: list[object] = []
    thread = threading.Thread(target=lambda: taken.append(outbox.take()), daemon=True)
    thread.start()
    outbox.interrupt()
    thread.join(2)
    assert taken == [[]] and outbox.take() == []
    outbox.resume()
    outbox.open(2)
    outbox.put(2, Done("stop"))
    assert outbox.take() == [(2, Done("stop"))]


def test_reading_stops_at_a_bound_and_goes_on_once_the_text_is_taken() -> None:
    outbox, _, drained = box_of(1, 2)
    half = "x" * (MOST_UNREAD // 2)
    assert outbox.put(1, Text(half)) and outbox.put(2, Text(half))
    assert not outbox.put(1, Text(half))
    assert outbox.put(2, Text("x")) and not drained
    assert len(outbox.take()) == 2 and drained == [1]


def test_log_probabilities_of_texts_that_are_joined_are_kept_in_their_order() -> None:
    outbox, _, _ = box_of(1)
    one, two = (TokenLogprobs(Logprob(text, -0.5, 1), (), text.encode().hex()) for text in "ab")
    for text, logprobs in (("a", (one,)), ("b", (two,))):
        outbox.put(1, Text(text, 1, logprobs))
    assert outbox.take() == [(1, Text("ab", 2, (one, two)))]
