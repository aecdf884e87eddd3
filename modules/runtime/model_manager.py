"""Load models in worker processes, one load at a time, and unload idle ones to make room for others."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial

from modules.core.errors import ModelLoading, ModelNotFound, NoModelLoaded, WebUIError
from modules.core.events import Json, Progress
from modules.core.worker_errors import LoadCancelled, LoadFailed, Unloaded, WorkerDied, WorkerStuck
from modules.loaders.availability import unavailable
from modules.runtime.core_binding import CoreBinding
from modules.runtime.errors import InsufficientMemory, ModelAsleep, ModelsBusy
from modules.runtime.explainer import Explainer
from modules.runtime.load_plan import LoadPlan, LoraAdapter
from modules.runtime.load_task import LoadTask
from modules.runtime.loaded_model import Lease, LoadedModel
from modules.runtime.memory_room import Holding, MemoryRoom
from modules.runtime.model_load import ModelLoad
from modules.runtime.resident import Entry, ResidencyLimits, Resident
from modules.runtime.room_making import Occupant, make_room
from modules.runtime.status import Status, status_of
from modules.runtime.waiting import MakePlan, Waiter, WaitingRequests

log = logging.getLogger(__name__)

_RECHECK_SECONDS = 1.0
"""How often memory is measured again while a load waits for models to become idle."""


class ModelManager:
    """Owner of all models in memory, one of which is the page's choice. Any thread may call.

    Models are in memory at once as far as `room` and `limits` allow; without `room`, one is. A later `load` or `unload`
    cancels a load by hand that is under way. `cores` must be shared with whatever else starts workers that compute.
    """

    def __init__(
        self,
        cores: CoreBinding | None = None,
        room: MemoryRoom | None = None,
        limits: ResidencyLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.status = Status()
        self.crashed: set[str] = set()  # names of models that took their worker down, and have not been loaded since
        self._cores, self._room, self._clock = cores or CoreBinding(), room, clock
        self._limits = limits or ResidencyLimits()
        self._explainer = Explainer()
        self._versions, self._numbers, self._orders = itertools.count(1), itertools.count(1), itertools.count(1)
        self._latest_number = 0
        self._latest = LoadTask()  # the newest load by hand, or unload; older ones give up
        self._state = threading.Condition()  # guards the fields below, never held during anything slow
        self._entries: dict[str, Entry] = {}
        self._chosen, self._freed = "", 0
        self._tasks: list[LoadTask] = []  # loads that wait for their turn
        self._active: LoadTask | None = None  # the load that is being carried out
        self._works = False  # whether a thread carries out loads
        self._draining: tuple[str, ...] = ()  # models that get no new leases, so that they can make room
        self._closing = 0  # models whose processes are ending
        self._waiting = WaitingRequests()
        self._failures: dict[str, tuple[float, WebUIError]] = {}  # until when not to try again
        self._timer, self._timer_at = threading.Timer(0, self.expire), 0.0

    # -- the page's choice --------------------------------------------------------------------------------------------

    @property
    def current(self) -> LoadedModel:
        """The page's model. Raises ModelLoading, ModelAsleep, NoModelLoaded, or the WorkerDied that ended it."""
        with self._state:
            entry, status = self._entries.get(self._chosen), self.status
        if entry is not None and entry.is_ready and entry.model is not None:
            return entry.model
        if status.state == "loading":
            raise ModelLoading(status.name)
        if status.state == "asleep":
            raise ModelAsleep(status.name)
        raise status.error if isinstance(status.error, WorkerDied) else NoModelLoaded()

    def choose(self, name: str) -> None:
        """Make a resident the page's model. One that is asleep is woken by the next lease. Raises ModelNotFound."""
        with self._state:
            if name not in self._entries:
                raise ModelNotFound(name)
            self._chosen = name
            self._publish()

    def residents(self) -> tuple[Resident, ...]:
        """Return all models that are loaded, being loaded, asleep or failed."""
        with self._state:
            now = self._clock()
            return tuple(entry.view(entry.name == self._chosen, self._limits, now) for entry in self._entries.values())

    def pin(self, name: str, on: bool = True) -> None:
        """Let a resident stay in memory whatever others need, or no longer. Raises ModelNotFound."""
        with self._state:
            if name not in self._entries:
                raise ModelNotFound(name)
            self._entries[name].is_pinned = on
            self._publish()
            self._settle()

    # -- leases -------------------------------------------------------------------------------------------------------

    def lease(self, name: str = "", make_plan: MakePlan | None = None) -> Lease:
        """Wait for a model, and keep it loaded until the lease is released. Raises what `request` and its future raise.

        Without a name, it is the page's model.
        """
        return self.request(name, make_plan).result()

    def request(
        self, name: str = "", make_plan: MakePlan | None = None, keep_alive: float | None = None
    ) -> Future[Lease]:
        """Ask for a lease of a model; without a name, of the page's or, if it has none, of the one used last.

        A model that is asleep is woken. `make_plan` decides how a model is loaded that is not a resident; without it,
        none is. `keep_alive` is how many seconds the model stays after its last answer. Raises NoModelLoaded,
        ModelsBusy, the WorkerDied that ended the model, or why its load has just failed; the future raises why this
        load fails, InsufficientMemory or ModelsBusy. To give up, see `release_when_granted`.
        """
        with self._state:
            name = name or self._default_name()
            waiter = Waiter(name, make_plan, keep_alive, self._clock() + self._limits.wait_seconds)
            if not self._is_open(name):
                self._refuse_hopeless(name, make_plan)
            self._waiting.add(waiter)
            self._settle()
            return waiter.lease

    def _default_name(self) -> str:
        if self._chosen in self._entries:
            return self._chosen
        awake = [entry for entry in self._entries.values() if entry.state in ("ready", "asleep")]
        if awake:
            return max(awake, key=lambda entry: (entry.is_ready, entry.idle_since)).name
        raise NoModelLoaded()

    def _refuse_hopeless(self, name: str, make_plan: MakePlan | None) -> None:
        """Raise why a request for a model cannot even wait."""
        entry = self._entries.get(name)
        if not self._has_task(name):
            until, failure = self._failures.get(name, (0.0, None))
            if failure is not None and self._clock() < until:
                raise failure
            if entry is not None and entry.state == "failed" and make_plan is None:
                raise entry.error if isinstance(entry.error, WorkerDied) else NoModelLoaded()
            if entry is None and make_plan is None:
                raise NoModelLoaded()
        self._waiting.forget_cancelled()
        if len(self._waiting) >= self._limits.queue:
            raise ModelsBusy(name, len(self._waiting))

    def _is_open(self, name: str) -> bool:
        """Whether a model is ready, and gives leases."""
        entry = self._entries.get(name)
        if entry is None or not entry.is_ready or name in self._draining:
            return False
        return all(task.name != name for task in self._tasks)

    def _has_task(self, name: str) -> bool:
        return any(task.name == name for task in self._all_tasks())

    def _settle(self) -> None:
        """Grant what can be granted, and have loaded what is waited for. To be called after every change."""
        self._waiting.forget_cancelled()
        for name in self._waiting.names():
            entry = self._entries.get(name)
            if self._is_open(name) and entry is not None and entry.model is not None:
                keep_alive = self._waiting.grant(name, entry.model)
                entry.keep_alive = entry.keep_alive if keep_alive is None else keep_alive
            elif not self._has_task(name):
                self._add_task(name, entry)
        if self._tasks and not self._works:
            self._works = True
            threading.Thread(target=self._work, name="loads", daemon=True).start()
        self._state.notify_all()
        self._arm_timer()

    def _add_task(self, name: str, entry: Entry | None) -> None:
        """Have a model loaded that is waited for: as it was before it fell asleep, else as the request says."""
        make_plan = self._waiting.plan_for(name)
        if entry is not None and (entry.state == "asleep" or make_plan is None):
            kept = entry.plan
            self._tasks.append(LoadTask(name=name, make_plan=lambda: kept, by_hand=False))
        elif make_plan is not None:
            self._tasks.append(LoadTask(name=name, make_plan=make_plan, by_hand=False))
        else:  # its load was cancelled
            self._waiting.refuse(name, Unloaded())

    # -- loads and unloads by hand ------------------------------------------------------------------------------------

    def next_number(self) -> int:
        """Reserve the rank of a request whose details are not decided yet."""
        self._latest_number = next(self._numbers)
        return self._latest_number

    def is_latest(self, number: int) -> bool:
        """Whether no load or unload has been requested since `number` was reserved."""
        return self._latest_number == number

    def load(self, plan: LoadPlan) -> LoadedModel:
        """Load a model and wait until it is ready. Raises what `begin` raises, and why the load failed."""
        return self.begin(plan).result()

    def begin(self, plan: LoadPlan, number: int | None = None) -> Future[LoadedModel]:
        """Load a model, which becomes the page's, in another thread. Others are unloaded first if both do not fit.

        `status` shows the progress. A request for what is already being loaded joins that load. Raises
        LoaderUnavailable or the model's own problem at once. The future raises LoadFailed, ModelProblem, WorkerDied,
        InsufficientMemory, ModelsBusy, or LoadCancelled after a later request; no half-loaded model is left then.
        """
        number = number or self.next_number()
        if reason := unavailable(plan.loader, plan.record.format) or plan.record.problem:
            raise reason
        task = LoadTask(number, plan.record.name, plan)
        with self._state:
            if task.number < self._latest.number:
                task.outcome.set_exception(LoadCancelled(plan.record.name))
                return task.outcome
            if task.joins(self._latest):
                return self._latest.outcome
            abandoned, task.previous = self._cancel(self._latest), self._latest.previous
            if self._active is not None and task.joins(self._active):  # it was asked for by a request
                task = self._active
                task.number, task.by_hand = number, True
                task.previous, self._chosen = self._chosen, task.name
                self._publish()
            else:
                self._tasks.insert(0, task)
            self._latest = task
            self._settle()
        _end_loads(abandoned)
        return task.outcome

    def unload(self, name: str = "") -> int:
        """Unload a model, or cancel its load; without a name, the page's. Return the bytes of memory freed."""
        with self._state:
            is_pages = name in ("", self._chosen)
            name = name or self._chosen
            cancelled = [task for task in self._all_tasks() if task.name == name or (is_pages and task is self._latest)]
            abandoned = [load for task in cancelled for load in self._cancel(task)]
            if is_pages:
                self._latest = LoadTask(self.next_number())
            self._waiting.refuse(name, Unloaded())
        _end_loads(abandoned)
        if is_pages:
            self._explainer.close()
        with self._state:
            self._state.wait_for(lambda: self._active not in cancelled)
            entry = self._entries.pop(name, None)
            previous = next((task.previous for task in cancelled if task.name == name), "")
            if is_pages:
                self._chosen = previous if previous in self._entries else ""
            models = [entry.model] if entry is not None and entry.model is not None else []
            self._closing += len(models)
        freed = self._close(models)
        with self._state:
            self._freed = freed if is_pages else self._freed
            self._publish()
            self._settle()
        return freed

    def close(self) -> None:
        """Unload all models, and tell those who wait."""
        self.unload()
        while names := self._known_names():
            for name in names:
                self.unload(name)
        self._timer.cancel()

    def _known_names(self) -> set[str]:
        with self._state:
            return {*self._entries, *self._waiting.names(), *(task.name for task in self._all_tasks())}

    def explain(self, plan: LoadPlan) -> Json:
        """Return what loading would call, as `Explainer.explain`. Raises LoaderUnavailable."""
        if reason := unavailable(plan.loader, plan.record.format):
            raise reason
        return self._explainer.explain(plan)

    def apply_loras(self, model: LoadedModel, adapters: Sequence[LoraAdapter]) -> None:
        """Apply LoRAs as `LoadedModel.apply_loras` does, and show them in `status`."""
        model.apply_loras(adapters)
        with self._state:
            self._publish()

    def _all_tasks(self) -> list[LoadTask]:
        return [*self._tasks, *([self._active] if self._active else [])]

    def _cancel(self, task: LoadTask) -> list[ModelLoad]:
        """Cancel a load. Return what is to be ended for it, outside the lock."""
        if task.outcome.done() or task not in self._all_tasks():
            return []
        task.is_cancelled = True
        if task in self._tasks:
            self._tasks.remove(task)
            task.outcome.set_exception(LoadCancelled(task.name))
        return [task.load] if task.load is not None else []

    # -- loading, in one thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Carry out loads until there are no more."""
        try:
            while True:
                with self._state:
                    if not self._tasks:
                        return
                    self._active = self._tasks.pop(0)
                self._run(self._active)
        finally:
            with self._state:
                self._works = False
                if self._tasks:  # a load has failed by a bug
                    self._settle()

    def _run(self, task: LoadTask) -> None:
        loader = task.plan.loader.name if task.plan else ""
        failure: WebUIError | None = LoadFailed(loader, task.name, "internal error")  # a bug, which is logged
        model = None
        try:
            model = self._carry_out(task)
            failure = None
        except WebUIError as known:
            failure = known
        finally:
            with self._state:
                self._active, self._draining = None, ()
                if failure is not None:
                    self._fail(task, failure)
                self._settle()
            if failure is not None:
                task.outcome.set_exception(failure)
            elif model is not None:
                task.outcome.set_result(model)

    def _carry_out(self, task: LoadTask) -> LoadedModel:
        plan = task.planned()
        with self._state:
            entry = self._entries.get(task.name)
            if not task.by_hand and entry is not None and entry.is_ready and entry.model is not None:
                return entry.model
            self._raise_if_pointless(task)
            self._show_loading(task, plan)
        self._clear_room(task, plan)
        began = time.monotonic()
        task.load = ModelLoad(plan, self._cores, self._on_death, partial(self._on_idle, task.name))
        with self._state:
            if task.is_cancelled:
                raise LoadCancelled(task.name)
        model = task.load.run(partial(self._report, task))
        with self._state:
            if not task.is_cancelled:
                self._become_ready(task, plan, model, time.monotonic() - began)
        if task.is_cancelled:
            model.close()
            raise LoadCancelled(task.name)
        log.info("loaded %s with %s in %.1f s", model.record.name, model.loader.name, time.monotonic() - began)
        if isinstance(model.death, WorkerDied):  # it died before it was ready, so `_on_death` ignored it
            self._on_death(model.death)
        return model

    def _raise_if_pointless(self, task: LoadTask) -> None:
        """Raise LoadCancelled for a load that was cancelled, or whose clients have all left before it began."""
        self._waiting.forget_cancelled()
        if task.is_cancelled or (task.needs_waiter and not task.by_hand and task.name not in self._waiting.names()):
            raise LoadCancelled(task.name)

    def _show_loading(self, task: LoadTask, plan: LoadPlan) -> None:
        entry = self._entries.setdefault(task.name, Entry(plan, on_demand=not task.by_hand))
        task.was_asleep = entry.state == "asleep"
        entry.state, entry.stage, entry.progress, entry.error = "loading", "", 0.0, None
        if task.by_hand:
            task.previous = self._chosen if self._chosen in self._entries else task.previous
            self._chosen = task.name
        self._publish()

    def _clear_room(self, task: LoadTask, plan: LoadPlan) -> None:
        """Unload what has to make room for a load, once it is idle.

        Raises InsufficientMemory if that is not enough, and ModelsBusy if a load by hand has to wait too long.
        """
        deadline = self._clock() + self._limits.wait_seconds
        while True:
            with self._state:
                self._state.wait_for(lambda: not self._closing)
                self._raise_if_pointless(task)
                occupants = self._occupants()
            decision = make_room(plan, occupants, self._room, self._limits.models, must_fit=not task.by_hand)
            if not decision.possible:
                raise self._insufficient_memory(plan)
            with self._state:
                self._draining = decision.wait_for
                models = self._evict(decision.evict, task)
                if decision.wait_for:
                    self._state.wait(_RECHECK_SECONDS)
                if task.by_hand and self._clock() >= deadline:
                    raise ModelsBusy(task.name, len(self._waiting))
            self._close(models)
            if not decision.wait_for and len(models) == len(decision.evict):  # else one has just been put to use
                return

    def _occupants(self) -> list[Occupant]:
        return [
            Occupant(entry.model.plan, entry.model.is_busy, entry.is_pinned, entry.idle_since, entry.order)
            for entry in self._entries.values()
            if entry.model is not None
        ]

    def _evict(self, names: Iterable[str], task: LoadTask) -> list[LoadedModel]:
        """Take idle models from their entries, to be closed.

        What a load by hand replaces is forgotten, as if it had been unloaded; others are asleep.
        """
        entries = [self._entries[name] for name in names if name in self._entries]
        entries = [entry for entry in entries if entry.model is not None and entry.model.retire()]
        models = [entry.model for entry in entries if entry.model is not None]
        for entry in entries:
            if entry.name == task.name:
                entry.model = None
            elif task.by_hand:
                del self._entries[entry.name]
            else:
                entry.sleep()
        self._closing += len(models)
        if models:
            self._publish()
        return models

    def _close(self, models: Sequence[LoadedModel]) -> int:
        """Close models that `_closing` counts, and return the bytes freed."""
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
            models = [entry.model for entry in self._entries.values() if entry.model is not None]
        held = [(model.record.name, model.memory) for model in models]
        return InsufficientMemory(plan.record.name, self._room.needed(plan) if self._room else 0, held)

    def _report(self, task: LoadTask, progress: Progress) -> None:
        with self._state:
            if (entry := self._entries.get(task.name)) is not None and entry.state == "loading":
                entry.stage, entry.progress = progress.stage, progress.done
                self._publish()

    def _become_ready(self, task: LoadTask, plan: LoadPlan, model: LoadedModel, seconds: float) -> None:
        entry = self._entries[task.name]
        entry.plan, entry.model, entry.state, entry.seconds = plan, model, "ready", seconds
        entry.idle_since, entry.order = self._clock(), next(self._orders)
        entry.on_demand = entry.on_demand and not task.by_hand
        self.crashed.discard(task.name)
        self._failures.pop(task.name, None)
        if self._chosen not in self._entries and self._latest not in self._all_tasks():
            self._chosen = task.name
        self._publish()
        self._settle()

    def _fail(self, task: LoadTask, failure: WebUIError) -> None:
        """Show that a load has failed, or undo it if nothing was lost."""
        entry = self._entries.get(task.name)
        previous = task.previous if task.previous in self._entries else ""
        is_refusal = isinstance(failure, InsufficientMemory | ModelsBusy) and (previous or not task.by_hand)
        if isinstance(failure, LoadCancelled) or is_refusal:
            if entry is not None and entry.model is not None:
                entry.state = "ready"
            elif entry is not None and task.was_asleep:
                entry.sleep()
            elif entry is not None:
                del self._entries[task.name]
            if is_refusal:
                self._waiting.refuse(task.name, failure)
                self._chosen = previous if task.by_hand else self._chosen
            if is_refusal or not task.by_hand:  # else the later request publishes its own status
                self._publish()
            return
        entry = entry or self._entries.setdefault(task.name, Entry(task.plan)) if task.plan else entry
        if entry is not None:
            entry.fail(failure)
        self._failures[task.name] = (self._clock() + self._limits.failure_seconds, failure)
        self._waiting.refuse(task.name, failure)
        self._note_crash(task.name, failure)
        self._publish()

    # -- what happens by itself ---------------------------------------------------------------------------------------

    def _on_death(self, death: WorkerDied) -> None:
        """Publish that a worker ended by itself, and load its model again if it was stuck.

        While it loads, the load itself reports its end.
        """
        with self._state:
            dead = [entry for entry in self._entries.values() if entry.model is not None and entry.model.death is death]
            if not dead or (model := dead[0].model) is None:
                return
            dead[0].fail(death)
            self._note_crash(dead[0].name, death)
            is_chosen = dead[0].name == self._chosen
            if isinstance(death, WorkerStuck) and not is_chosen:
                self._tasks.append(LoadTask(name=dead[0].name, plan=model.plan, by_hand=False, needs_waiter=False))
            self._publish()
            self._settle()
        log.error("%s", death)
        if isinstance(death, WorkerStuck) and is_chosen:
            self.begin(model.plan)

    def _note_crash(self, name: str, error: WebUIError) -> None:
        if isinstance(error, WorkerDied):
            self.crashed.add(name)

    def _on_idle(self, name: str) -> None:
        """Note the end of the last answer of a model."""
        with self._state:
            if (entry := self._entries.get(name)) is not None:
                entry.idle_since = self._clock()
            self._settle()

    def expire(self) -> None:
        """Put models to sleep that have been idle for long enough, and tell requests that have waited too long."""
        with self._state:
            now, self._timer_at = self._clock(), 0.0
            loading = self._active.name if self._active is not None and self._active.load is not None else ""
            waiting = len(self._waiting)
            self._waiting.refuse_overdue(now, loading, lambda waiter: ModelsBusy(waiter.name, waiting))
            models = []
            for entry in self._entries.values():
                sleeps_at = entry.sleeps_at(self._limits)
                if sleeps_at is not None and sleeps_at <= now and entry.model is not None and entry.model.retire():
                    models.append(entry.model)
                    entry.sleep()
            self._closing += len(models)
            if models:
                self._publish()
            self._settle()
        self._close(models)

    def _arm_timer(self) -> None:
        """Have `expire` called when it is next needed."""
        idle = [entry for entry in self._entries.values() if entry.model is not None and not entry.model.is_busy]
        times = [at for entry in idle if (at := entry.sleeps_at(self._limits)) is not None]
        loading = self._active.name if self._active is not None and self._active.load is not None else ""
        times += [waiter.deadline for waiter in self._waiting if waiter.name != loading]
        if not times or (self._timer_at and self._timer_at <= min(times)):
            return
        self._timer.cancel()
        self._timer_at = min(times)
        self._timer = threading.Timer(max(self._timer_at - self._clock(), 0.0), self.expire)
        self._timer.daemon = True
        self._timer.start()

    # -- status -------------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Show what has changed: `status` is that of the page's model, and `version` grows with every change."""
        version, entry = next(self._versions), self._entries.get(self._chosen)
        self._freed = self._freed if entry is None else 0
        self.status = status_of(entry, version, self._freed)
        if self._room is not None:
            held = [entry for entry in self._entries.values() if entry.model is not None]
            self._room.holdings = tuple(Holding(entry.plan, entry.is_pinned) for entry in held)


def _end_loads(loads: Iterable[ModelLoad]) -> None:
    for load in loads:
        load.cancel()
