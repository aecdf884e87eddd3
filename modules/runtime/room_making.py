"""Decide which models make room for another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modules.runtime.load_plan import LoadPlan
from modules.runtime.memory_room import MemoryRoom


@dataclass(frozen=True)
class Occupant:
    """A model in memory. `last_used` is when its last answer ended; `order` grows with each load."""

    plan: LoadPlan
    is_busy: bool = False
    is_pinned: bool = False
    last_used: float = 0.0
    order: int = 0

    @property
    def name(self) -> str:
        return self.plan.record.name


@dataclass(frozen=True)
class Decision:
    """What to do for a load: evict models and go on, wait until models are idle or, if not `possible`, give up."""

    evict: tuple[str, ...] = ()
    wait_for: tuple[str, ...] = ()
    possible: bool = True


def make_room(
    plan: LoadPlan, occupants: Sequence[Occupant], room: MemoryRoom | None, most: int, must_fit: bool
) -> Decision:
    """Choose as few models as possible, idle ones first, of these the one that was used least recently.

    At most `most` models are in memory, and without `room` one. A model of the same name always makes room, another one
    that is pinned never. With `must_fit`, a model that does not even fit alone is not loaded.
    """

    def is_enough(leaving: Sequence[Occupant]) -> bool:
        kept = [occupant.plan for occupant in occupants if occupant not in leaving]
        if len(kept) >= most:
            return False
        if not kept and (room is None or not must_fit):
            return True
        return room is not None and room.fits(plan, kept, [occupant.plan for occupant in leaving])

    leaving = [occupant for occupant in occupants if occupant.name == plan.record.name]
    others = [occupant for occupant in occupants if occupant not in leaving and not occupant.is_pinned]
    others.sort(key=lambda one: (one.is_busy, one.order if one.is_busy else one.last_used))
    while not is_enough(leaving):
        if not others:
            return Decision(possible=False)
        leaving.append(others.pop(0))
    for occupant in list(leaving):  # the first ones may have been too small to matter
        fewer = [other for other in leaving if other is not occupant]
        if occupant.name != plan.record.name and is_enough(fewer):
            leaving = fewer
    busy = tuple(occupant.name for occupant in leaving if occupant.is_busy)
    return Decision(wait_for=busy) if busy else Decision(tuple(occupant.name for occupant in leaving))
