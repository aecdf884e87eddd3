"""The numbers of all generations."""

from __future__ import annotations

import dataclasses

from modules.core.errors import Unsupported, both
from modules.core.events import Done, Event, Failed, Text
from modules.runtime.totals import GenerationTotals, Totals


def test_all_numbers_are_added_up() -> None:
    names = [field.name for field in dataclasses.fields(Totals)]
    both = Totals(**dict.fromkeys(names, 1)).plus(Totals(**dict.fromkeys(names, 2)))
    assert dataclasses.asdict(both) == {**dict.fromkeys(names, 3), "longest": 2}


def test_generations_are_counted_when_they_begin_and_when_they_end() -> None:
    totals = GenerationTotals()
    received: list[Event] = []
    first, second, _ = (totals.counting(received.append) for _ in range(3))
    first(Text("x"))
    first(Done("stop", 10, 4, 5, 0.5, 1.5))
    second(Failed(Unsupported(both("no"))))
    assert totals.current == Totals(3, 1, 10, 4, 5, 0.5, 1.5, longest=15)
    first.stopped()
    assert totals.current == Totals(3, 1, 10, 4, 5, 0.5, 1.5, longest=15), "an end is counted once"
    assert len(received) == 3


def test_the_answer_of_a_stopped_generation_is_counted() -> None:
    totals = GenerationTotals()
    for texts in ([Text("a"), Text("b c", tokens=2)], []):
        stopped = totals.counting(lambda _event: None)
        for text in texts:
            stopped(text)
        stopped.stopped()
        stopped.stopped()
    counted = totals.current
    assert (counted.generations, counted.completion_tokens, counted.prompt_tokens) == (2, 3, 0)
    assert 0 < counted.decode_seconds < 1
