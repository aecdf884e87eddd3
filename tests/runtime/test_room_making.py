"""Which models make room for another one."""

from __future__ import annotations

import pytest

from modules.runtime.room_making import Decision, Occupant, make_room
from tests.support.echo_plans import plan
from tests.support.shelf import Shelf


def occupant(name: str, last_used: float = 0, busy: bool = False, pinned: bool = False, order: int = 0) -> Occupant:
    return Occupant(plan(name), busy, pinned, last_used, order)


def decide(*occupants: Occupant, space: int = 3, most: int = 9, by_hand: bool = False, **sizes: int) -> Decision:
    return make_room(plan("new"), occupants, Shelf(space, **sizes), most, must_fit=not by_hand)


def test_idle_models_make_room_before_busy_ones_and_the_least_recently_used_first() -> None:
    older, newer = occupant("older", 1), occupant("newer", 2)
    busy = occupant("busy", 0, busy=True)
    assert decide(busy, newer, older) == Decision(("older",))
    assert decide(busy, newer, older, new=2) == Decision(("older", "newer"))
    assert decide(busy, newer, older, new=3) == Decision(wait_for=("busy",))
    assert decide(busy, newer, older, space=4) == Decision()


def test_of_busy_models_the_one_loaded_first_is_waited_for() -> None:
    busy = [occupant("b", 1, busy=True, order=2), occupant("a", 2, busy=True, order=1)]
    assert decide(*busy, space=2) == Decision(wait_for=("a",))


def test_no_more_models_than_needed_make_room() -> None:
    small, large = occupant("small", 1), occupant("large", 2)
    assert decide(small, large, space=3, large=2, new=2) == Decision(("large",))


def test_a_pinned_model_stays_unless_it_is_loaded_anew() -> None:
    assert decide(occupant("a", pinned=True), space=1) == Decision(possible=False)
    assert decide(occupant("new", pinned=True), space=1) == Decision(("new",))


def test_the_count_of_models_is_limited_too() -> None:
    assert decide(occupant("a", 1), occupant("b", 2), most=2) == Decision(("a",))
    assert decide(occupant("a", pinned=True), most=1) == Decision(possible=False)


def test_what_does_not_fit_alone_is_loaded_by_hand_only(subtests: pytest.Subtests) -> None:
    for by_hand in (True, False):
        with subtests.test(by_hand=by_hand):
            assert decide(new=4, by_hand=by_hand).possible is by_hand
            assert decide(occupant("a"), new=4, by_hand=by_hand).possible is by_hand


def test_without_a_measure_of_memory_one_model_is_loaded_at_a_time() -> None:
    assert make_room(plan("new"), [occupant("a")], None, 9, must_fit=True) == Decision(("a",))
    assert make_room(plan("new"), [], None, 9, must_fit=True) == Decision()
