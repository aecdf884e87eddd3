"""One load of a model, in a worker process of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence

from modules.core.errors import Unsupported, WebUIError, Words
from modules.core.events import Info, Progress, Result
from modules.core.worker_errors import LoadCancelled, LoadFailed, Unloaded, WorkerDied
from modules.engines.prompt_cache.folder import PromptFolder
from modules.loaders.availability import damaged, overlay_of, rpc_unavailable
from modules.runtime.address_concealer import concealer_of
from modules.runtime.core_binding import CoreBinding
from modules.runtime.load_plan import LoadPlan, LoraAdapter
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.node_watch import NodeWatch
from modules.runtime.totals import GenerationTotals
from modules.runtime.worker_process import ANSWER_WAITING, WorkerProcess
from modules.system import rpc_node
from modules.system.terminal import terminal_language

_LOADED: Words = {
    "en": "Loaded {model} with {loader} in {seconds:.1f} s.",
    "zh": "已用 {loader} 加载 {model}，用时 {seconds:.1f} 秒。",
}
_ON_ANOTHER_MACHINE: Words = {"en": "Run on another machine: %s", "zh": "请在另一台机器上执行：%s"}

log = logging.getLogger(__name__)


class ModelLoad:
    """One load. `died` is called if the worker ends by itself, during the load or later.

    `idle` and `totals` are for the `LoadedModel`. With `conceals`, errors name no addresses, later either. Prompts are
    saved in the folder `prompts`, if there is one.
    """

    def __init__(
        self,
        plan: LoadPlan,
        cores: CoreBinding,
        died: Callable[[WorkerDied], None],
        idle: Callable[[], None],
        totals: GenerationTotals,
        conceals: bool = False,
        prompts: PromptFolder | None = None,
    ) -> None:
        self._conceal, self._prompts = concealer_of(plan) if conceals else None, prompts
        self._plan, self._cores, self._died, self._idle, self._totals = plan, cores, died, idle, totals
        self._worker: WorkerProcess | None = None
        self._is_cancelled = False
        self._lock = threading.Lock()  # guards the two fields above

    def cancel(self) -> None:
        """End the load, which then raises LoadCancelled. Any thread may call."""
        with self._lock:
            self._is_cancelled, worker = True, self._worker
        if worker is not None:
            worker.kill()

    def run(self, report: Callable[[Progress], None]) -> LoadedModel:
        """Load the model. Raises why it failed; no half-loaded model is left then."""
        plan = self._plan
        try:
            _require_nodes(plan)
        except WebUIError as error:
            raise error if self._conceal is None else self._conceal(error) from None
        worker = self._start_worker()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(worker.kill)
            try:
                self._adopt(worker)
                model = self._load_in(worker, report)
                self._adopt(worker)
            except WebUIError as error:
                if self._is_cancelled:
                    raise LoadCancelled(plan.record.name) from None
                raise damaged(plan.loader, plan.record.format) or error from None
            on_failure.pop_all()
        return model

    def _adopt(self, worker: WorkerProcess) -> None:
        """Let `cancel` end this worker. Raises LoadCancelled if it has been called."""
        with self._lock:
            if self._is_cancelled:
                raise LoadCancelled(self._plan.record.name)
            self._worker = worker

    def _start_worker(self) -> WorkerProcess:
        plan = self._plan
        overlay = overlay_of(plan.loader, plan.record.format, plan.options)
        waiting = self._cores.waiting if plan.loader.binds_threads else ANSWER_WAITING
        try:
            watch = NodeWatch(plan.nodes) if plan.nodes else None
            folder = overlay.folder if overlay else None
            return WorkerProcess(folder, self._died, waiting, watch, self._conceal)
        except OSError as error:  # no memory, or too many processes
            raise LoadFailed(plan.loader.name, plan.record.name, str(error)) from error

    def _load_in(self, worker: WorkerProcess, report: Callable[[Progress], None]) -> LoadedModel:
        plan = self._plan
        info = self._await_load(worker, report)
        if plan.loader.binds_threads:
            self._cores.bind(worker)
        if plan.loader.keeps_prompts and self._prompts is not None and self._prompts.max_bytes:
            _keep_prompts(worker, self._prompts)
        model = LoadedModel(plan, worker, info, self._idle, self._totals)
        if plan.adapters:
            _apply_first_loras(model, plan.adapters)
        return model

    def _await_load(self, worker: WorkerProcess, report: Callable[[Progress], None]) -> Info:
        record, loader = self._plan.record, self._plan.loader
        for event in worker.events("load", engine=loader.engine, path=str(record.path), options=self._plan.options):
            if isinstance(event, Progress):
                report(event)
                for command in event.commands:
                    log.warning(_ON_ANOTHER_MACHINE[terminal_language()], command)
            elif isinstance(event, Result):
                return Info.from_json(event.value)
        raise AssertionError("a load ended without a result")


def log_loaded(model: LoadedModel, seconds: float) -> None:
    """Say in the terminal that a model is ready, and how long its load took."""
    facts = {"model": model.record.name, "loader": model.loader.name, "seconds": seconds}
    log.info("%s", _LOADED[terminal_language()].format(**facts))


def _require_nodes(plan: LoadPlan) -> None:
    """Raise why one of the other machines cannot take part, which would block the worker for ever or abort it."""
    if plan.nodes:
        if reason := rpc_unavailable(plan.loader):
            raise reason
        rpc_node.usable(rpc_node.ask_all(plan.nodes))


def _keep_prompts(worker: WorkerProcess, prompts: PromptFolder) -> None:
    """Let the engine save prompts, unless it cannot for this kind of model."""
    with contextlib.suppress(Unsupported):
        worker.call("keep_prompts", folder=str(prompts.path), max_bytes=prompts.max_bytes)


def _apply_first_loras(model: LoadedModel, adapters: Sequence[LoraAdapter]) -> None:
    """Apply the LoRAs that a model starts with. If they are refused, the model goes on without them and says why."""
    try:
        model.apply_loras(adapters)
    except (WorkerDied, Unloaded):
        raise
    except WebUIError as error:
        log.warning("%s", error)
        model.lora_problem = error
