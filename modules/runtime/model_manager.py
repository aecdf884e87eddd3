"""Load models in worker processes, one load at a time, and unload idle ones to make room for others."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from modules.core.errors import WebUIError
from modules.core.events import Json, Progress
from modules.core.worker_errors import LoadCancelled, LoadFailed, Unloaded, WorkerDied, WorkerStuck
from modules.engines.prompt_cache.folder import PromptFolder
from modules.runtime.alarm import Alarm
from modules.runtime.core_binding import CoreBinding
from modules.runtime.errors import InsufficientMemory, ModelsBusy
from modules.runtime.eviction import Eviction
from modules.runtime.explainer import Explainer
from modules.runtime.load_plan import LoadPlan, LoraAdapter
from modules.runtime.load_queue import LoadQueue, end_loads
from modules.runtime.load_task import LoadTask, load_for_request
from modules.runtime.loaded_model import Lease, LoadedModel
from modules.runtime.memory_room import MemoryRoom
from modules.runtime.model_load import ModelLoad, log_loaded
from modules.runtime.resident import ResidencyLimits, Resident
from modules.runtime.resident_table import ResidentTable
from modules.runtime.status import Status
from modules.runtime.totals import GenerationTotals
from modules.runtime.waiting import MakePlan, RecentFailures, Waiter, WaitingRequests

log = logging.getLogger(__name__)


class ModelManager:
    """Owner of all models in memory, one of which is the page's choice. Any thread may call.

    Models are in memory at once as far as `room` and `limits` allow; without `room`, one is. A later `load` or `unload`
    cancels a load by hand that is under way. `cores` must be shared with whatever else starts workers that compute.
    `crashed` are models that took their worker down, and have not been loaded since. `changes` are those of residents.
    With `conceals_addresses`, errors do not say on which other machines models are. `prompts` is for saved prompts.
    """

    def __init__(
        self,
        cores: CoreBinding | None = None,
        room: MemoryRoom | None = None,
        limits: ResidencyLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        conceals_addresses: bool = False,
        prompts: PromptFolder | None = None,
    ) -> None:
        self.totals, self._clock, self._for_loads = GenerationTotals(), clock, (conceals_addresses, prompts)
        self._cores, self._limits = cores or CoreBinding(), limits or ResidencyLimits()
        self._explainer, self._numbers = Explainer(), itertools.count(1)
        self._latest_number, self._latest = 0, LoadTask()  # the newest load by hand, or unload; older ones give up
        self._state = threading.Condition()  # guards the fields below, never held during anything slow
        self._table = ResidentTable(room, self._limits, clock)
        self.crashed, self.changes = self._table.crashed, self._table.changes
        self._eviction = Eviction(self._state, self._table, room, self._limits, clock)
        self._queue, self._waiting = LoadQueue(), WaitingRequests()
        self._failures = RecentFailures(self._limits.failure_seconds, clock)
        self._alarm = Alarm(clock, self.expire)

    # -- residents, and the page's choice -----------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """A snapshot of the page's model."""
        if self._table.is_outdated:
            with self._state:
                self._table.publish()
        return self._table.status

    @property
    def current(self) -> LoadedModel:
        """The page's model. Raises ModelLoading, ModelAsleep, NoModelLoaded, or the WorkerDied that ended it."""
        with self._state:
            return self._table.current

    def residents(self) -> tuple[Resident, ...]:
        """Return all models that are loaded, being loaded, asleep or failed."""
        with self._state:
            return self._table.views()

    def is_resident(self, name: str) -> bool:
        """Whether a model of that name is among the residents."""
        return name in self._table

    def choose(self, name: str) -> None:
        """Make a resident the page's model. One that is asleep is woken by the next lease. Raises ModelNotFound."""
        with self._state:
            self._table.chosen = self._table.find(name).name
            self._table.publish()

    def loaded(self) -> tuple[LoadedModel, ...]:
        """Return the models that are ready, the one used last first, without keeping them in memory."""
        with self._state:
            return self._table.ready_models()

    @property
    def waiting_requests(self) -> int:
        """How many requests wait for their model to be loaded."""
        return len(self._waiting)

    def pin(self, name: str, on: bool = True) -> None:
        """Let a resident stay in memory whatever others need, or no longer. Raises ModelNotFound."""
        with self._state:
            self._table.find(name).is_pinned = on
            self._table.publish()
            self._settle()

    # -- leases -------------------------------------------------------------------------------------------------------

    def lease(self, name: str = "", make_plan: MakePlan | None = None) -> Lease:
        """Wait for a lease of a model. Raises what `request` and its future raise."""
        return self.request(name, make_plan).result()

    def request(
        self,
        name: str = "",
        make_plan: MakePlan | None = None,
        keep_alive: float | None = None,
        task: str | None = None,
    ) -> Future[Lease]:
        """Ask for a lease of a model; without a name, of the page's or, if it has none, of the one used last.

        With `task`, as in `ModelRecord.task`, that is one of this task if there is any. One that is asleep is woken.
        `make_plan` decides how one is loaded that is no resident; without it, none is. `keep_alive` is how many seconds
        it stays after its last answer. Raises NoModelLoaded, ModelsBusy, the WorkerDied that ended it, or why its load
        has just failed; the future raises that, InsufficientMemory or ModelsBusy. `release_when_granted` gives up.
        """
        with self._state:
            name = name or self._table.default_name(task)
            waiter = Waiter(name, make_plan, keep_alive, self._clock() + self._limits.wait_seconds)
            if (model := self._open_model(name)) is None:
                self._refuse_hopeless(name, make_plan)
            self._waiting.add(waiter)
            if model is None:
                self._settle()
            else:
                self._grant(name, model)
            return waiter.lease

    def _refuse_hopeless(self, name: str, make_plan: MakePlan | None) -> None:
        """Raise why a request for a model cannot even wait."""
        if not self._queue.has(name):
            self._failures.check(name)
            if make_plan is None:
                self._table.require(name)
        self._waiting.check_room(name, self._limits.queue)

    def _open_model(self, name: str) -> LoadedModel | None:
        """Return a model that is ready and gives leases."""
        if name in self._eviction.draining or self._queue.is_waiting(name):
            return None
        return self._table.ready_model(name)

    def _settle(self) -> None:
        """Grant what can be granted, and have loaded what is waited for. To be called after every change."""
        self._waiting.forget_cancelled()
        for name in self._waiting.names():
            if (model := self._open_model(name)) is not None:
                self._grant(name, model)
            elif not self._queue.has(name):
                plan = self._waiting.plan_for(name)
                if (task := load_for_request(name, self._table.get(name), plan)) is not None:
                    self._queue.add(task)
                else:  # its load was cancelled
                    self._waiting.refuse(name, Unloaded())
        self._start_next()
        self._state.notify_all()
        times = (self._waiting.next_deadline(self._queue.loading_name), self._table.next_sleep())
        self._alarm.set(min((at for at in times if at is not None), default=None))  # when `expire` is needed next

    def _grant(self, name: str, model: LoadedModel) -> None:
        """Give a model that is open to all who wait for it."""
        if (keep_alive := self._waiting.grant(name, model)) is not None:
            self._table.find(name).keep_alive = keep_alive

    # -- loads and unloads by hand ------------------------------------------------------------------------------------

    def next_number(self) -> int:
        """Reserve the rank of a request whose details are not decided yet."""
        self._latest_number = next(self._numbers)
        return self._latest_number

    def is_latest(self, number: int) -> bool:
        """Whether no load or unload has been requested since `number` was reserved."""
        return self._latest_number == number

    def expect(self, name: str) -> None:
        """Show a model as loading whose load will begin in a moment; "" once it has, or will not."""
        with self._state:
            self._table.expected = name
            self._table.publish()

    def load(self, plan: LoadPlan) -> LoadedModel:
        """Load a model and wait until it is ready. Raises what `begin` and its future raise."""
        return self.begin(plan).result()

    def begin(self, plan: LoadPlan, number: int | None = None) -> Future[LoadedModel]:
        """Load a model, which becomes the page's, in another thread. Others are unloaded first if both do not fit.

        `status` shows the progress. A request for what is already being loaded joins that load. Raises
        LoaderUnavailable or the model's own problem at once. The future raises LoadFailed, ModelProblem, WorkerDied,
        InsufficientMemory, ModelsBusy, or LoadCancelled after a later request; no half-loaded model is left then.
        """
        number = number or self.next_number()
        task = LoadTask(number, plan.record.name, plan)
        task.planned()  # raises why it cannot be loaded
        with self._state:
            if task.number < self._latest.number:
                task.outcome.set_exception(LoadCancelled(plan.record.name))
                return task.outcome
            if task.joins(self._latest):
                return self._latest.outcome
            abandoned, task.previous = self._queue.cancel(self._latest), self._latest.previous
            if self._queue.active is not None and task.joins(self._queue.active):  # it was asked for by a request
                task = self._queue.active
                task.number, task.by_hand = number, True
                task.previous, self._table.chosen = self._table.chosen, task.name
                self._table.publish()
            else:
                self._queue.add(task, first=True)
            self._latest = task
            self._settle()
        end_loads(abandoned)
        return task.outcome

    def unload(self, name: str = "") -> int:
        """Unload a model, or cancel its load; without a name, the page's. Return the bytes of memory freed."""
        with self._state:
            is_pages = name in ("", self._table.chosen)
            name = name or self._table.chosen
            cancelled = [task for task in self._queue.tasks if task.name == name or (is_pages and task is self._latest)]
            abandoned = [load for task in cancelled for load in self._queue.cancel(task)]
            if is_pages:
                self._latest, self._table.expected = LoadTask(self.next_number()), ""
            self._waiting.refuse(name, Unloaded())
            self._state.notify_all()
        end_loads(abandoned)
        if is_pages:
            self._explainer.close()
        with self._state:
            self._state.wait_for(lambda: self._queue.active not in cancelled)
            models = self._table.remove(name)
            if is_pages:
                previous = next((task.previous for task in cancelled if task.name == name), "")
                self._table.chosen = previous if previous in self._table else ""
            self._eviction.expect(models)
        freed = self._eviction.close(models)
        with self._state:
            self._table.publish(freed if is_pages else None)
            self._settle()
        return freed

    def close(self) -> None:
        """Unload all models, and tell those who wait."""
        self.unload()
        names = {""}
        while names:
            with self._state:
                names = {*self._table.names, *self._waiting.names(), *(task.name for task in self._queue.tasks)}
            for name in names:
                self.unload(name)
        with self._state:
            self._alarm.cancel()

    def explain(self, plan: LoadPlan) -> Json:
        """Return what loading would call, as `Explainer.explain`."""
        return self._explainer.explain(plan)

    def apply_loras(self, model: LoadedModel, adapters: Sequence[LoraAdapter]) -> None:
        """Apply LoRAs as `LoadedModel.apply_loras` does, and show them in `status`."""
        model.apply_loras(adapters)
        with self._state:
            self._table.publish()

    # -- loading, in a thread of the load's own -----------------------------------------------------------------------

    def _start_next(self) -> None:
        """Begin the next load if none is under way."""
        if (task := self._queue.next()) is not None:
            thread = ThreadPoolExecutor(1, "load")
            thread.submit(self._carry_out, task).add_done_callback(partial(self._end, task))
            thread.shutdown(wait=False)

    def _carry_out(self, task: LoadTask) -> LoadedModel:
        plan = task.planned()
        with self._state:
            if not task.by_hand and (model := self._table.ready_model(task.name)) is not None:
                return model
            self._raise_if_pointless(task)
            self._table.show_loading(task, plan)
        self._explainer.check(plan)
        self._eviction.clear_room(task, plan, partial(self._raise_if_pointless, task))
        began = time.monotonic()
        on_idle = partial(self._on_idle, task.name)
        task.load = ModelLoad(plan, self._cores, self._on_death, on_idle, self.totals, *self._for_loads)
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
        log_loaded(model, time.monotonic() - began)
        if isinstance(model.death, WorkerDied):  # it died before it was ready, so `_on_death` ignored it
            self._on_death(model.death)
        return model

    def _raise_if_pointless(self, task: LoadTask) -> None:
        """Raise LoadCancelled for a load that was cancelled, or whose clients have all left before it began."""
        self._waiting.forget_cancelled()
        if task.is_cancelled or (task.needs_waiter and not task.by_hand and task.name not in self._waiting.names()):
            raise LoadCancelled(task.name)

    def _report(self, task: LoadTask, progress: Progress) -> None:
        with self._state:
            self._table.show_progress(task.name, progress)

    def _become_ready(self, task: LoadTask, plan: LoadPlan, model: LoadedModel, seconds: float) -> None:
        """Show that a model is ready, and give it to all who wait for it."""
        self._table.become_ready(task, plan, model, seconds)
        self._failures.forget(task.name)
        if self._table.chosen not in self._table and self._latest not in self._queue.tasks:
            self._table.chosen = task.name
        self._table.publish()
        self._settle()

    def _end(self, task: LoadTask, work: Future[LoadedModel]) -> None:
        """Tell how a load has ended, and begin the next one."""
        failure = work.exception()
        with self._state:
            self._queue.active, self._eviction.draining = None, ()
            if isinstance(failure, WebUIError):
                self._fail(task, failure)
            elif failure is not None:  # a bug; whoever waits for the load logs it
                loader = task.plan.loader.name if task.plan else ""
                self._fail(task, LoadFailed(loader, task.name, "internal error"))
            self._settle()
        if failure is not None:
            task.outcome.set_exception(failure)
        else:
            task.outcome.set_result(work.result())

    def _fail(self, task: LoadTask, failure: WebUIError) -> None:
        """Show that a load has failed, or undo it if nothing was lost."""
        is_pages_first = task.by_hand and task.previous not in self._table
        if isinstance(failure, LoadCancelled):
            self._table.undo_load(task)
            if not task.by_hand:  # else the later request publishes its own status
                self._table.publish()
        elif isinstance(failure, InsufficientMemory | ModelsBusy) and not is_pages_first:
            self._table.undo_load(task)
            self._table.chosen = task.previous if task.by_hand else self._table.chosen
            self._waiting.refuse(task.name, failure)
            self._table.publish()
        else:
            self._failures.remember(task.name, failure)
            self._waiting.refuse(task.name, failure)
            self._table.fail(task.name, task.plan, failure)

    # -- what happens by itself ---------------------------------------------------------------------------------------

    def _on_death(self, death: WorkerDied) -> None:
        """Publish that a worker ended by itself, and load its model again if it was stuck.

        While it loads, the load itself reports its end.
        """
        with self._state:
            if (model := self._table.die(death)) is None:
                return
            name = model.record.name
            is_stuck, is_chosen = isinstance(death, WorkerStuck), name == self._table.chosen
            if is_stuck and not is_chosen:
                self._queue.add(LoadTask(name=name, plan=model.plan, by_hand=False, needs_waiter=False))
            self._settle()
        log.error("%s", death)
        if is_stuck and is_chosen:
            self.begin(model.plan)

    def _on_idle(self, name: str) -> None:
        """Note the end of the last answer of a model."""
        with self._state:
            self._table.note_use(name)
            self._settle()

    def expire(self) -> None:
        """Put models to sleep that have been idle for long enough, and tell requests that have waited too long."""
        with self._state:
            self._alarm.has_rung()
            self._waiting.refuse_overdue(self._clock(), self._queue.loading_name)
            models = self._table.put_to_sleep()
            self._eviction.expect(models)
            self._settle()
        self._eviction.close(models)
