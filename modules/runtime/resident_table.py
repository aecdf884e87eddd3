"""The models that are in memory, asleep or failed, and which of them is the page's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from modules.core.errors import ModelLoading, ModelNotFound, NoModelLoaded, WebUIError
from modules.core.events import Progress
from modules.core.worker_errors import WorkerDied
from modules.runtime.changes import Changes
from modules.runtime.errors import ModelAsleep
from modules.runtime.load_plan import LoadPlan
from modules.runtime.load_task import LoadTask
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.memory_room import Holding, MemoryRoom
from modules.runtime.resident import Entry, ResidencyLimits, Resident
from modules.runtime.room_making import Occupant
from modules.runtime.status import Status, status_of


class ResidentTable:
    """An entry for each model, by name. The lock of its owner guards it.

    `status` is that of the page's model, `chosen`. `expected` is the name of a model that is about to be loaded as the
    page's, and is shown as loading already, "" if there is none. `crashed` are the names of models that took their
    worker down, and have not been loaded since.
    """

    def __init__(self, room: MemoryRoom | None, limits: ResidencyLimits, clock: Callable[[], float]) -> None:
        self.status = Status()
        self.crashed: set[str] = set()
        self.chosen = self.expected = ""
        self.changes = Changes()
        self._room, self._limits, self._clock = room, limits, clock
        self._versions, self._orders = itertools.count(1), itertools.count(1)
        self._entries: dict[str, Entry] = {}
        self._freed = 0  # by the unload of the page's model

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    def find(self, name: str) -> Entry:
        """Return the entry of a model. Raises ModelNotFound if there is none."""
        if name not in self._entries:
            raise ModelNotFound(name)
        return self._entries[name]

    def require(self, name: str) -> None:
        """Raise NoModelLoaded, or the WorkerDied that ended it, for a model that is no resident or has failed."""
        entry = self._entries.get(name)
        if entry is None or entry.state == "failed":
            error = entry.error if entry is not None else None
            raise error if isinstance(error, WorkerDied) else NoModelLoaded()

    def ready_model(self, name: str) -> LoadedModel | None:
        entry = self._entries.get(name)
        return entry.model if entry is not None and entry.is_ready else None

    def ready_models(self) -> tuple[LoadedModel, ...]:
        """Return the models that can answer, the one used last first."""
        ready = sorted(
            (entry for entry in self._entries.values() if entry.is_ready), key=lambda entry: entry.idle_since
        )
        return tuple(entry.model for entry in reversed(ready) if entry.model is not None)

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    @property
    def models(self) -> list[LoadedModel]:
        """The models in memory."""
        return [entry.model for entry in self._entries.values() if entry.model is not None]

    @property
    def current(self) -> LoadedModel:
        """The page's model. Raises ModelLoading, ModelAsleep, NoModelLoaded, or the WorkerDied that ended it."""
        if (model := self.ready_model(self.chosen)) is not None:
            return model
        if self.status.state == "loading":
            raise ModelLoading(self.status.name)
        if self.status.state == "asleep":
            raise ModelAsleep(self.status.name)
        raise self.status.error if isinstance(self.status.error, WorkerDied) else NoModelLoaded()

    def default_name(self, task: str | None = None) -> str:
        """Return the page's model or, if it has none or it has failed, the one used last.

        With `task`, as in `ModelRecord.task`, models of that task come before all others. Raises NoModelLoaded if there
        is none, or ModelLoading if one is expected.
        """
        chosen = self._entries.get(self.chosen)
        usable = [entry for entry in self._entries.values() if entry.state in ("ready", "asleep")]
        able = [entry for entry in usable if task in (None, entry.task)]
        if chosen is not None and (not able or (chosen.state != "failed" and task in (None, chosen.task))):
            return chosen.name
        usable = able or usable
        if not usable:
            raise ModelLoading(self.expected) if self.expected else NoModelLoaded()
        return max(usable, key=lambda entry: (entry.is_ready, entry.idle_since)).name

    def views(self) -> tuple[Resident, ...]:
        now = self._clock()
        return tuple(entry.view(entry.name == self.chosen, self._limits, now) for entry in self._entries.values())

    def occupants(self) -> list[Occupant]:
        return [
            Occupant(entry.model.plan, entry.model.is_busy, entry.is_pinned, entry.idle_since, entry.order)
            for entry in self._entries.values()
            if entry.model is not None
        ]

    @property
    def is_outdated(self) -> bool:
        """Whether the server of the page's model has become unreachable, or answers again, since it was published."""
        model = self.ready_model(self.chosen)
        return model is not None and self.status.state == "ready" and model.is_reachable != self.status.is_reachable

    def publish(self, freed: int | None = None) -> None:
        """Show what has changed. `freed` are the bytes that unloading the page's model has freed."""
        entry = self._entries.get(self.chosen)
        self._freed = 0 if entry is not None else self._freed if freed is None else freed
        status = status_of(entry, next(self._versions), self._freed)
        if entry is None and self.expected:
            status = Status("loading", status.version, self.expected)
        self.status = status.after(self.status)
        if self._room is not None:
            held = [one for one in self._entries.values() if one.model is not None]
            self._room.holdings = tuple(Holding(one.plan, one.is_pinned) for one in held)
            # With its first stage, the worker is about to connect to them, and they answer nobody else.
            loading = [one.plan for one in self._entries.values() if one.state == "loading" and one.stage]
            self._room.loading_nodes = frozenset(node for plan in loading for node in plan.nodes)
        self.changes.announce()

    def note_use(self, name: str) -> None:
        """Note that a model has just been used."""
        if (entry := self._entries.get(name)) is not None:
            entry.idle_since = self._clock()

    # -- loads --------------------------------------------------------------------------------------------------------

    def show_loading(self, task: LoadTask, plan: LoadPlan) -> None:
        """Show that a load begins; by hand, it is of the page's model. An old model of that name stays for now."""
        entry = self._entries.setdefault(task.name, Entry(plan, on_demand=not task.by_hand))
        task.was_asleep = entry.state == "asleep"
        entry.state, entry.stage, entry.progress, entry.error = "loading", "", 0.0, None
        if task.by_hand:
            task.previous = self.chosen if self.chosen in self._entries else task.previous
            self.chosen = task.name
        self.publish()

    def show_progress(self, name: str, progress: Progress) -> None:
        entry = self._entries.get(name)
        if entry is not None and entry.state == "loading":
            entry.stage, entry.progress = progress.stage, progress.done
            self.publish()

    def become_ready(self, task: LoadTask, plan: LoadPlan, model: LoadedModel, seconds: float) -> None:
        entry = self._entries[task.name]
        entry.plan, entry.model, entry.state, entry.seconds = plan, model, "ready", seconds
        entry.idle_since, entry.order = self._clock(), next(self._orders)
        entry.on_demand = entry.on_demand and not task.by_hand
        self.crashed.discard(task.name)

    def undo_load(self, task: LoadTask) -> None:
        """Show a model as it was before a load that has changed nothing."""
        entry = self._entries.get(task.name)
        if entry is not None and entry.model is not None:
            entry.state = "ready"
        elif entry is not None and task.was_asleep:
            entry.sleep()
        elif entry is not None:
            del self._entries[task.name]

    def fail(self, name: str, plan: LoadPlan | None, error: WebUIError) -> None:
        """Show why a model is not in memory. `plan` is for one that has had no entry."""
        if name not in self._entries and plan is not None:
            self._entries[name] = Entry(plan)
        if name in self._entries:
            self._entries[name].fail(error)
        if isinstance(error, WorkerDied):
            self.crashed.add(name)
        self.publish()

    # -- ends ---------------------------------------------------------------------------------------------------------

    def remove(self, name: str) -> list[LoadedModel]:
        """Forget a model. Return it if it is in memory, to be closed."""
        entry = self._entries.pop(name, None)
        return [entry.model] if entry is not None and entry.model is not None else []

    def evict(self, names: Iterable[str], task: LoadTask) -> list[LoadedModel]:
        """Take idle models out, to be closed: those that have just been put to use stay.

        What a load by hand replaces is forgotten, as if it had been unloaded; others are asleep.
        """
        found = [self._entries[name] for name in names if name in self._entries]
        entries = [entry for entry in found if entry.model is not None and entry.model.retire()]
        models = [entry.model for entry in entries if entry.model is not None]
        for entry in entries:
            if entry.name == task.name:
                entry.model = None
            elif task.by_hand:
                del self._entries[entry.name]
            else:
                entry.sleep()
        if models:
            self.publish()
        return models

    def put_to_sleep(self) -> list[LoadedModel]:
        """Take out the models that have been idle for long enough, to be closed."""
        now, models = self._clock(), []
        for entry in self._entries.values():
            sleeps_at = entry.sleeps_at(self._limits)
            if sleeps_at is not None and sleeps_at <= now and entry.model is not None and entry.model.retire():
                models.append(entry.model)
                entry.sleep()
        if models:
            self.publish()
        return models

    def next_sleep(self) -> float | None:
        """Return the time at which the next model goes to sleep, of those that are idle."""
        idle = [entry for entry in self._entries.values() if entry.model is not None and not entry.model.is_busy]
        times = [at for entry in idle if (at := entry.sleeps_at(self._limits)) is not None]
        return min(times, default=None)

    def die(self, death: WorkerDied) -> LoadedModel | None:
        """Show that a worker has ended by itself. Return its model, None if it was none of these."""
        for entry in self._entries.values():
            if entry.model is not None and entry.model.death is death:
                model = entry.model
                self.fail(entry.name, None, death)
                return model
        return None
