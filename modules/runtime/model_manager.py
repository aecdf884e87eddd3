"""The model in use: loaded into a worker of its own, held, let go of. One at a time; the last wish wins."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from modules.catalog.catalog import ModelRecord
from modules.core.errors import LoadCancelled, LoadFailed, ModelLoading, NoModelLoaded, Unloaded, WebUIError, WorkerDied
from modules.core.events import ENDS, Done, Event, Failed, Info, Json, Progress, Result, Text, Waiting
from modules.core.prompt import Prompt
from modules.loaders.overlay import Overlay
from modules.loaders.registry import Loader, Setting, damaged, overlay_of, unavailable, values
from modules.runtime.core_binding import CoreBinding
from modules.runtime.worker_process import Deliver, WorkerProcess
from modules.system import cpu_memory

log = logging.getLogger(__name__)

Reply = Text | Progress | Waiting | Done


@dataclass(frozen=True)
class Applied:
    """A LoRA in force. `effect` is the largest change of a logit that it makes by itself on the engine's probe text."""

    name: str
    weight: float
    effect: float


class LoadedModel:
    """A model that answers. Its worker may die at any time; every method then raises WorkerDied."""

    def __init__(
        self, record: ModelRecord, loader: Loader, settings: Mapping[str, Setting], worker: WorkerProcess, info: Info
    ) -> None:
        self.record = record
        self.loader = loader
        self.settings = settings
        self.info = info
        self.loras: tuple[Applied, ...] = ()
        self.lora_problem: WebUIError | None = None  # why those that it was to have from the start are not in force
        self._worker = worker

    @property
    def memory(self) -> int:
        """Bytes its worker holds now."""
        return cpu_memory.resident_memory(self._worker.pid)

    @property
    def death(self) -> WorkerDied | Unloaded | None:
        return self._worker.death

    def ask(self, operation: str, **args: Json) -> Json:
        """The answer to a quick question of the engine's, such as "encode"."""
        return _answer(self._worker.events(operation, **args))

    def generate(self, prompt: Prompt, params: Mapping[str, Json]) -> Iterator[Event]:
        """Text as it comes, a Done last. Closing the iterator stops the generation."""
        return self._worker.events("generate", prompt=prompt.to_json(), params=params)

    def start(self, prompt: Prompt, params: Mapping[str, Json], deliver: Deliver) -> Callable[[], None]:
        """Begin a generation whose events `deliver` gets, on a thread of the worker's. What is returned stops it."""
        return partial(
            self._worker.cancel, self._worker.start("generate", deliver, prompt=prompt.to_json(), params=params)
        )

    async def stream(self, prompt: Prompt, params: Mapping[str, Json]) -> AsyncGenerator[Reply, None]:
        """`generate` for an event loop: no thread waits meanwhile, and cancelling the task stops the generation."""
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[Event] = asyncio.Queue()

        def deliver(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody listens any more
                loop.call_soon_threadsafe(inbox.put_nowait, event)

        stop = self.start(prompt, params, deliver)
        try:
            while True:
                event = await inbox.get()
                if isinstance(event, Failed):
                    raise event.error
                if not isinstance(event, Result):
                    yield event
                if isinstance(event, ENDS):
                    return
        finally:
            stop()

    def close(self) -> None:
        self._worker.close()


def _answer(events: Iterator[Event]) -> Json:
    for event in events:
        if isinstance(event, Result):
            return event.value
    raise AssertionError("a call ended without a result")


@dataclass(frozen=True)
class Status:
    """What everybody may see of the model's state. `version` grows with each change.

    `stage` and `progress` are those of `Progress`, while loading; `freed` and `seconds` are bytes and seconds of what
    just happened.
    """

    state: Literal["empty", "loading", "ready", "failed"] = "empty"
    version: int = 0
    name: str = ""
    loader: str = ""
    stage: str = ""
    progress: float = 0.0
    context_length: int = 0
    memory: int = 0
    freed: int = 0
    seconds: float = 0.0
    error: WebUIError | None = None
    loras: tuple[Applied, ...] = ()
    lora_problem: WebUIError | None = None


class Explainer:
    """A worker that loads nothing and is asked what loading would come to. It is kept while questions keep coming,
    for a process and its imports take a third of a second of all processors, and let go of after `patience` seconds."""

    def __init__(self, patience: float = 20.0) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._overlay: Overlay | None = None
        self._end = threading.Timer(0, self.close)

    def worker(self, overlay: Overlay | None) -> WorkerProcess:
        with self._lock:
            if self._worker is None or self._worker.death is not None or self._overlay != overlay:
                self._let_go()
                self._worker = WorkerProcess(overlay.folder if overlay else None)
                self._overlay = overlay
            self._end.cancel()
            self._end = threading.Timer(self._patience, self.close)
            self._end.daemon = True
            self._end.start()
            return self._worker

    def close(self) -> None:
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        self._end.cancel()
        if self._worker is not None:
            self._worker.close()
            self._worker = None


@dataclass(eq=False)
class Wish:
    """A load, known by what is `asked`, or an unload, which asks for nothing. `outcome` is for all who ask for it.

    Numbers grow in the order in which wishes came.
    """

    number: int = 0
    asked: object = None
    outcome: Future[LoadedModel] = field(default_factory=Future)
    loras: Mapping[str, object] = field(default_factory=dict)

    def joins(self, other: Wish) -> bool:
        """Whether `other` is the very load that this one asks for, and still under way."""
        return self.asked is not None and self.asked == other.asked and not other.outcome.done()


class Models:
    """Owner of the model in use. A later `load` or `unload` ends an earlier load that is still under way.

    `adapt` is what applies LoRAs to a model just loaded, before anybody else has it. `cores` must be shared with
    whatever else starts workers that compute.
    """

    def __init__(self, cores: CoreBinding | None = None) -> None:
        self.status = Status()
        self._cores = cores or CoreBinding()
        self.adapt: Callable[[LoadedModel, Mapping[str, object]], None] | None = None
        self._explainer = Explainer()
        self._versions = itertools.count(1)
        self._current: LoadedModel | None = None
        self._loading: WorkerProcess | None = None
        self.deadly: set[str] = set()  # models that took their worker down, and have not loaded since
        self._numbers = itertools.count(1)
        self._latest_number = 0
        self._wish = Wish()  # the newest load or unload asked for; older ones give up
        self._state = threading.Lock()  # guards the fields above, never held while something slow is done
        self._turn = threading.Lock()  # held by the one load or unload that is being carried out

    @property
    def current(self) -> LoadedModel:
        """The loaded model; if there is none, ModelLoading, NoModelLoaded, or the WorkerDied that ended it."""
        with self._state:
            model, status = self._current, self.status
        if model is not None:
            return model
        if status.state == "loading":
            raise ModelLoading(status.name)
        raise status.error if isinstance(status.error, WorkerDied) else NoModelLoaded()

    def load(self, record: ModelRecord, loader: Loader, settings: Mapping[str, Setting]) -> LoadedModel:
        """Load a model in place of the current one, which is let go first: both may not fit. Blocks until it is ready.

        Others see how it goes in `status`. LoaderUnavailable, ModelProblem, LoadFailed, WorkerDied, or LoadCancelled
        when another wish came after this one; none of them leaves anything half loaded. What is known beforehand to
        fail leaves the current model in place. Whoever asks for what is being loaded already waits for that.
        """
        return self.begin(record, loader, settings).result()

    def next_number(self) -> int:
        """The place of a wish among all others, for who knows only a while later what exactly it is."""
        self._latest_number = next(self._numbers)
        return self._latest_number

    def is_latest(self, number: int) -> bool:
        """Whether nobody has asked for a load or an unload since `number` was given out."""
        return self._latest_number == number

    def begin(
        self,
        record: ModelRecord,
        loader: Loader,
        settings: Mapping[str, Setting],
        number: int | None = None,
        loras: Mapping[str, object] | None = None,
    ) -> Future[LoadedModel]:
        """`load`, on a thread of its own: nobody needs to wait for it, nor to be there when it ends."""
        number = number or self.next_number()
        if reason := unavailable(loader, record.format) or record.problem:
            raise reason
        loras = loras or {}
        wish = Wish(number, (record, loader, values(settings), loras), loras=loras)
        with self._state:
            if wish.number < self._wish.number:
                wish.outcome.set_exception(LoadCancelled(record.name))
                return wish.outcome
            if wish.joins(self._wish):
                return self._wish.outcome
            self._wish, given_up = wish, self._loading
            thread = ThreadPoolExecutor(1, "load")
            wish.outcome = thread.submit(self._carry_out, wish, record, loader, settings)
        thread.shutdown(wait=False)
        if given_up is not None:
            given_up.kill()
        return wish.outcome

    def _carry_out(
        self, wish: Wish, record: ModelRecord, loader: Loader, settings: Mapping[str, Setting]
    ) -> LoadedModel:
        with self._turn:
            self._check(wish, record)
            self._show(state="loading", name=record.name, loader=loader.name)
            self._let_go()
            try:
                return self._in_worker(wish, record, loader, settings)
            except LoadCancelled:
                raise  # the later wish has the next turn, and shows itself
            except WebUIError as error:
                fault = damaged(loader, record.format) or error
                self._show(state="failed", name=record.name, loader=loader.name, error=fault)
                raise fault from None
            finally:
                if self.status.state == "loading" and wish is self._wish:  # a fault of ours: whoever asked logs it
                    fault = LoadFailed(loader.name, record.name, "internal error")
                    self._show(state="failed", name=record.name, loader=loader.name, error=fault)

    def unload(self) -> int:
        """Let the model go, or give up loading it. The bytes of memory returned."""
        with self._state:
            self._wish, given_up = Wish(self.next_number()), self._loading
        if given_up is not None:
            given_up.kill()
        self._explainer.close()
        with self._turn:
            freed = self._let_go()
            self._show(state="empty", freed=freed)
            return freed

    def explain(self, record: ModelRecord, loader: Loader, settings: Mapping[str, Setting]) -> Json:
        """What loading would call, asked of the engine in a worker of its own: {"calls": ..., "notes": [...]}."""
        if reason := unavailable(loader, record.format):
            raise reason
        asked = {"engine": loader.engine, "path": str(record.path), "options": values(settings)}
        try:
            return _answer(self._explainer.worker(overlay_of(loader, record.format)).events("explain", **asked))
        except Unloaded:  # somebody else's question, or an unload, has just ended that worker
            return _answer(self._explainer.worker(overlay_of(loader, record.format)).events("explain", **asked))

    def _let_go(self) -> int:
        with self._state:
            model, self._current = self._current, None
        if model is None:
            return 0
        freed = model.memory
        model.close()
        return freed

    def _in_worker(
        self, wish: Wish, record: ModelRecord, loader: Loader, settings: Mapping[str, Setting]
    ) -> LoadedModel:
        began = time.monotonic()
        worker = self._start_worker(record, loader)
        undoing = contextlib.ExitStack()
        undoing.callback(worker.kill)
        try:
            with self._state:
                self._check(wish, record)  # the current model may have taken a while to end
                self._loading = worker
            info = self._await_load(worker, record, loader, settings)
            if loader.binds_threads:
                self._cores.bind(worker)
            model = LoadedModel(record, loader, settings, worker, info)
            if self.adapt is not None and wish.loras:
                self.adapt(model, wish.loras)
            with self._state:
                self._check(wish, record)
                self._show_ready(model, time.monotonic() - began)
                self._current = model
                log.info("loaded %s with %s in %.1f s", record.name, loader.name, self.status.seconds)
            undoing.pop_all()
        except WebUIError as error:
            raise LoadCancelled(record.name) if wish is not self._wish else error from None
        finally:
            undoing.close()
            with self._state:
                self._loading = None
        if isinstance(model.death, WorkerDied):  # it died before it was ours, so that `_on_death` did not know it
            self._on_death(model.death)
        return model

    def _check(self, wish: Wish, record: ModelRecord) -> None:
        if wish is not self._wish:
            raise LoadCancelled(record.name)

    def _start_worker(self, record: ModelRecord, loader: Loader) -> WorkerProcess:
        overlay = overlay_of(loader, record.format)
        binds_threads = loader.binds_threads and self._cores.available()
        try:
            return WorkerProcess(overlay.folder if overlay else None, self._on_death, binds_threads)
        except OSError as error:  # no memory or no room for a further process
            raise LoadFailed(loader.name, record.name, str(error)) from error

    def _await_load(
        self, worker: WorkerProcess, record: ModelRecord, loader: Loader, settings: Mapping[str, Setting]
    ) -> Info:
        args = {"engine": loader.engine, "path": str(record.path), "options": values(settings)}
        for event in worker.events("load", **args):
            if isinstance(event, Progress):
                at = {"stage": event.stage, "progress": event.done}
                self._show(state="loading", name=record.name, loader=loader.name, **at)
            elif isinstance(event, Result):
                return Info.from_json(event.value)
        raise AssertionError("a load ended without a result")

    def tell(self, model: LoadedModel) -> None:
        """Its LoRAs have changed: whoever watches `status` should see that, unless the model is gone."""
        with self._state:
            if model is self._current:
                self._show_ready(model, self.status.seconds)

    def _show_ready(self, model: LoadedModel, seconds: float) -> None:
        self._show(
            state="ready",
            name=model.record.name,
            loader=model.loader.name,
            context_length=model.info.context_length,
            memory=model.memory if model.loras else model.info.memory,
            seconds=seconds,
            loras=model.loras,
            lora_problem=model.lora_problem,
        )

    def _show(self, **facts: object) -> None:
        status = dataclasses.replace(Status(version=next(self._versions)), **facts)  # type: ignore[arg-type]
        if isinstance(status.error, WorkerDied):
            self.deadly.add(status.name)
        elif status.state == "ready":
            self.deadly.discard(status.name)
        self.status = status

    def _on_death(self, death: WorkerDied) -> None:
        """A worker ended by itself. While it loads, `load` hears of it as well."""
        with self._state:
            model = self._current
            if model is None or model.death is not death:
                return
            self._current = None
            self._show(state="failed", name=model.record.name, loader=model.loader.name, error=death)
        log.error("%s", death)
