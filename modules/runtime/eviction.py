"""Unload models that make room for a load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from modules.runtime.errors import InsufficientMemory, ModelsBusy
from modules.runtime.load_plan import LoadPlan
from modules.runtime.load_task import LoadTask
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.memory_room import MemoryRoom
from modules.runtime.resident import ResidencyLimits
from modules.runtime.resident_table import ResidentTable
from modules.runtime.room_making import make_room

_RECHECK_SECONDS = 1.0
"""How often memory is measured again while a load waits for models to become idle."""


class Eviction:
    """Makes room for one load at a time. `state` is the lock of `table`.

    Models that are `draining` are to get no new leases, so that they become idle and can make room.
    """

    def __init__(
        self,
        state: threading.Condition,
        table: ResidentTable,
        room: MemoryRoom | None,
        limits: ResidencyLimits,
        clock: Callable[[], float],
    ) -> None:
        self.draining: tuple[str, ...] = ()
        self._state, self._table, self._room, self._limits, self._clock = state, table, room, limits, clock
        self._closing = 0  # models whose processes are ending

    def clear_room(self, task: LoadTask, plan: LoadPlan, check: Callable[[], None]) -> None:
        """Unload what has to make room for a load, once it is idle. `check` raises if the load was given up.

        Raises InsufficientMemory if that is not enough, and ModelsBusy if a load by hand has to wait too long.
        """
        deadline = self._clock() + self._limits.wait_seconds
        while True:
            with self._state:
                self._state.wait_for(lambda: not self._closing)
                check()
                occupants = self._table.occupants()
            decision = make_room(plan, occupants, self._room, self._limits.models, must_fit=not task.by_hand)
            if not decision.possible:
                raise self._insufficient_memory(plan)
            with self._state:
                self.draining = decision.wait_for
                models = self._table.evict(decision.evict, task)
                self.expect(models)
                if decision.wait_for:
                    self._state.wait(_RECHECK_SECONDS)
                    if task.by_hand and self._clock() >= deadline:
                        raise ModelsBusy(task.name)
            self.close(models)
            if not decision.wait_for and len(models) == len(decision.evict):  # else one has just been put to use
                return

    def expect(self, models: Sequence[LoadedModel]) -> None:
        """Let the next load wait for the end of these models. To be called with the lock, before `close`."""
        self._closing += len(models)

    def close(self, models: Sequence[LoadedModel]) -> int:
        """Close models that are expected to end, and return the bytes freed."""
        freed = 0
        for model in models:
            freed += model.memory
            model.close()
            with self._state:
                self._closing -= 1
                self._state.notify_all()
        return freed

    def _insufficient_memory(self, plan: LoadPlan) -> InsufficientMemory:
        with self._state:
            held = [(model.record.name, model.memory) for model in self._table.models]
        return InsufficientMemory(plan.record.name, self._room.needed(plan) if self._room else 0, held)
