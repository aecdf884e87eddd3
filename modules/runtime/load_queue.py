"""The loads that wait for their turn, and the one that is being carried out."""

from __future__ import annotations

from collections.abc import Iterable

from modules.core.worker_errors import LoadCancelled
from modules.runtime.load_task import LoadTask
from modules.runtime.model_load import ModelLoad


class LoadQueue:
    """Loads in the order of their turns. The lock of its owner guards it."""

    def __init__(self) -> None:
        self.active: LoadTask | None = None
        self._waiting: list[LoadTask] = []

    @property
    def tasks(self) -> list[LoadTask]:
        """All loads, the active one last."""
        return [*self._waiting, *([self.active] if self.active else [])]

    @property
    def loading_name(self) -> str:
        """The name of the model that a worker is loading: requests for it no longer wait for room."""
        return self.active.name if self.active is not None and self.active.load is not None else ""

    def has(self, name: str) -> bool:
        """Whether a load of that model waits or is being carried out."""
        return any(task.name == name for task in self.tasks)

    def is_waiting(self, name: str) -> bool:
        return any(task.name == name for task in self._waiting)

    def add(self, task: LoadTask, first: bool = False) -> None:
        self._waiting.insert(0 if first else len(self._waiting), task)

    def next(self) -> LoadTask | None:
        """Return the load to begin now, which becomes the active one; None if there is none, or one is under way."""
        if self.active is not None or not self._waiting:
            return None
        self.active = self._waiting.pop(0)
        return self.active

    def cancel(self, task: LoadTask) -> list[ModelLoad]:
        """Cancel a load. Return what is to be ended for it, outside the lock."""
        if task.outcome.done() or task not in self.tasks:
            return []
        task.is_cancelled = True
        if task in self._waiting:
            self._waiting.remove(task)
            task.outcome.set_exception(LoadCancelled(task.name))
        return [task.load] if task.load is not None else []


def end_loads(loads: Iterable[ModelLoad]) -> None:
    """End what `LoadQueue.cancel` has returned."""
    for load in loads:
        load.cancel()
