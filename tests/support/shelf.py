"""Memory of a fixed size, for models of fixed sizes."""

from __future__ import annotations

from collections.abc import Sequence

from modules.runtime.load_plan import LoadPlan
from modules.runtime.memory_room import MemoryRoom


class Shelf(MemoryRoom):
    """Memory in which models of these sizes take that much of `space`, by the first word of their names; others 1."""

    def __init__(self, space: int, **sizes: int) -> None:
        super().__init__()
        self._space, self._sizes = space, sizes

    def fits(self, plan: LoadPlan, kept: Sequence[LoadPlan], evicted: Sequence[LoadPlan] = ()) -> bool:
        return sum(self._size(one) for one in (plan, *kept)) <= self._space

    def needed(self, plan: LoadPlan) -> int:
        return self._size(plan) << 30

    def _size(self, plan: LoadPlan) -> int:
        return self._sizes.get(plan.record.name.split()[0], 1)
