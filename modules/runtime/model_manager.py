"""Load one model at a time in a worker process; a newer request cancels an older one."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from modules.core.errors import ModelLoading, NoModelLoaded, WebUIError
from modules.core.events import Info, Json, Progress, Result
from modules.core.worker_errors import LoadCancelled, LoadFailed, Unloaded, WorkerDied, WorkerStuck
from modules.loaders.availability import damaged, overlay_of, unavailable
from modules.runtime.core_binding import CoreBinding
from modules.runtime.explainer import Explainer
from modules.runtime.load_plan import LoadPlan, LoraAdapter
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.status import Status
from modules.runtime.worker_process import WorkerProcess

log = logging.getLogger(__name__)


@dataclass(eq=False)
class LoadTask:
    """A load, or an unload, which has no plan. `outcome` serves everyone who asked for the same load.

    Numbers grow in the order of the requests.
    """

    number: int = 0
    plan: LoadPlan | None = None
    outcome: Future[LoadedModel] = field(default_factory=Future)

    def joins(self, other: LoadTask) -> bool:
        """Whether `other` is the load that this one asks for, and still under way."""
        if self.plan is None or other.plan is None or other.outcome.done():
            return False
        return self.plan.loads_the_same(other.plan)


class ModelManager:
    """Owner of the model in use. Any thread may call. A later `load` or `unload` cancels a load that is under way.

    `cores` must be shared with whatever else starts workers that compute.
    """

    def __init__(self, cores: CoreBinding | None = None) -> None:
        self.status = Status()
        self.crashed: set[str] = set()  # names of models that took their worker down, and have not been loaded since
        self._cores = cores or CoreBinding()
        self._explainer = Explainer()
        self._versions = itertools.count(1)
        self._current: LoadedModel | None = None
        self._loading: WorkerProcess | None = None
        self._numbers = itertools.count(1)
        self._latest_number = 0
        self._latest = LoadTask()  # the newest load or unload; older ones give up
        self._state = threading.Lock()  # guards the fields above, never held during anything slow
        self._turn = threading.Lock()  # held by the one load or unload that is being carried out

    @property
    def current(self) -> LoadedModel:
        """The loaded model. Raises ModelLoading, NoModelLoaded, or the WorkerDied that ended it if there is none."""
        with self._state:
            model, status = self._current, self.status
        if model is not None:
            return model
        if status.state == "loading":
            raise ModelLoading(status.name)
        raise status.error if isinstance(status.error, WorkerDied) else NoModelLoaded()

    # -- requests -----------------------------------------------------------------------------------------------------

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
        """Load a model in a thread of its own. The model in use is unloaded first, for both might not fit in memory.

        `status` shows the progress. A request for what is already being loaded joins that load. Raises
        LoaderUnavailable or the model's own problem at once, and the model in use stays. The future raises LoadFailed,
        ModelProblem, WorkerDied, or LoadCancelled after a later request; no half-loaded model is left then.
        """
        number = number or self.next_number()
        if reason := unavailable(plan.loader, plan.record.format) or plan.record.problem:
            raise reason
        task = LoadTask(number, plan)
        with self._state:
            if task.number < self._latest.number:
                task.outcome.set_exception(LoadCancelled(plan.record.name))
                return task.outcome
            if task.joins(self._latest):
                return self._latest.outcome
            self._latest, abandoned = task, self._loading
            thread = ThreadPoolExecutor(1, "load")
            task.outcome = thread.submit(self._run_load, task, plan)
        thread.shutdown(wait=False)
        if abandoned is not None:
            abandoned.kill()
        return task.outcome

    def unload(self) -> int:
        """Unload the model, or cancel its load. Return the bytes of memory freed."""
        with self._state:
            self._latest, abandoned = LoadTask(self.next_number()), self._loading
        if abandoned is not None:
            abandoned.kill()
        self._explainer.close()
        with self._turn:
            freed = self._close_current()
            self._publish(state="empty", freed=freed)
            return freed

    def explain(self, plan: LoadPlan) -> Json:
        """Return what loading would call, as `Explainer.explain`. Raises LoaderUnavailable."""
        if reason := unavailable(plan.loader, plan.record.format):
            raise reason
        return self._explainer.explain(plan)

    def apply_loras(self, model: LoadedModel, adapters: Sequence[LoraAdapter]) -> None:
        """Apply LoRAs as `LoadedModel.apply_loras` does, and show them in `status`."""
        model.apply_loras(adapters)
        with self._state:
            if model is self._current:
                self._publish_ready(model, self.status.seconds)

    # -- loading, in a thread of the load's own -----------------------------------------------------------------------

    def _run_load(self, task: LoadTask, plan: LoadPlan) -> LoadedModel:
        shown = {"name": plan.record.name, "loader": plan.loader.name}
        with self._turn:
            self._raise_if_superseded(task)
            self._publish(state="loading", **shown)
            self._close_current()
            try:
                return self._start_and_load(task, plan)
            except LoadCancelled:
                raise  # the later request has the next turn, and publishes its own status
            except WebUIError as error:
                cause = damaged(plan.loader, plan.record.format) or error
                self._publish(state="failed", error=cause, **shown)
                raise cause from None
            finally:
                if self.status.state == "loading" and task is self._latest:  # a bug; whoever waits for it logs it
                    failure = LoadFailed(plan.loader.name, plan.record.name, "internal error")
                    self._publish(state="failed", error=failure, **shown)

    def _start_and_load(self, task: LoadTask, plan: LoadPlan) -> LoadedModel:
        began = time.monotonic()
        worker = self._start_worker(plan)
        on_failure = contextlib.ExitStack()
        on_failure.callback(worker.kill)
        try:
            with self._state:
                self._raise_if_superseded(task)  # the current model may have taken a while to end
                self._loading = worker
            model = self._load_in(worker, plan)
            with self._state:
                self._raise_if_superseded(task)
                self._publish_ready(model, time.monotonic() - began)
                self._current = model
                log.info("loaded %s with %s in %.1f s", model.record.name, model.loader.name, self.status.seconds)
            on_failure.pop_all()
        except WebUIError as error:
            raise LoadCancelled(plan.record.name) if task is not self._latest else error from None
        finally:
            on_failure.close()
            with self._state:
                self._loading = None
        if isinstance(model.death, WorkerDied):  # it died before it was current, so `_on_death` ignored it
            self._on_death(model.death)
        return model

    def _raise_if_superseded(self, task: LoadTask) -> None:
        if task is not self._latest:
            raise LoadCancelled(task.plan.record.name if task.plan else "")

    def _start_worker(self, plan: LoadPlan) -> WorkerProcess:
        overlay = overlay_of(plan.loader, plan.record.format)
        binds_threads = plan.loader.binds_threads and self._cores.available()
        try:
            return WorkerProcess(overlay.folder if overlay else None, self._on_death, binds_threads)
        except OSError as error:  # no memory, or too many processes
            raise LoadFailed(plan.loader.name, plan.record.name, str(error)) from error

    def _load_in(self, worker: WorkerProcess, plan: LoadPlan) -> LoadedModel:
        info = self._await_load(worker, plan)
        if plan.loader.binds_threads:
            self._cores.bind(worker)
        model = LoadedModel(plan, worker, info)
        if plan.adapters:
            _apply_first_loras(model, plan.adapters)
        return model

    def _await_load(self, worker: WorkerProcess, plan: LoadPlan) -> Info:
        record, loader = plan.record, plan.loader
        for event in worker.events("load", engine=loader.engine, path=str(record.path), options=plan.options):
            if isinstance(event, Progress):
                progress = {"stage": event.stage, "progress": event.done}
                self._publish(state="loading", name=record.name, loader=loader.name, **progress)
            elif isinstance(event, Result):
                return Info.from_json(event.value)
        raise AssertionError("a load ended without a result")

    def _close_current(self) -> int:
        with self._state:
            model, self._current = self._current, None
        if model is None:
            return 0
        freed = model.memory
        model.close()
        return freed

    # -- status -------------------------------------------------------------------------------------------------------

    def _publish_ready(self, model: LoadedModel, seconds: float) -> None:
        self._publish(
            state="ready",
            name=model.record.name,
            loader=model.loader.name,
            context_length=model.info.context_length,
            memory=model.memory if model.loras else model.info.memory,
            seconds=seconds,
            loras=model.loras,
            lora_problem=model.lora_problem,
        )

    def _publish(self, **fields: object) -> None:
        status = dataclasses.replace(Status(version=next(self._versions)), **fields)  # type: ignore[arg-type]
        if isinstance(status.error, WorkerDied):
            self.crashed.add(status.name)
        elif status.state == "ready":
            self.crashed.discard(status.name)
        self.status = status

    def _on_death(self, death: WorkerDied) -> None:
        """Publish that a worker ended by itself, and load its model again if it was stuck.

        While it loads, the load itself reports its end.
        """
        with self._state:
            model = self._current
            if model is None or model.death is not death:
                return
            self._current = None
            self._publish(state="failed", name=model.record.name, loader=model.loader.name, error=death)
        log.error("%s", death)
        if isinstance(death, WorkerStuck):
            self.begin(model.plan)


def _apply_first_loras(model: LoadedModel, adapters: Sequence[LoraAdapter]) -> None:
    """Apply the LoRAs that a model starts with. If they are refused, the model goes on without them and says why."""
    try:
        model.apply_loras(adapters)
    except (WorkerDied, Unloaded):
        raise
    except WebUIError as error:
        log.warning("%s", error)
        model.lora_problem = error
