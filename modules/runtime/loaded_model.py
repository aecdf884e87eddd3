"""A model that is loaded: the main process's end of its worker."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from modules.core import request_route
from modules.core.embedding_errors import KINDS, CannotEmbed, CannotGenerate, CannotRank, WrongTask
from modules.core.events import ENDS, Begun, Done, Event, Failed, Info, Json, Progress, Result, Text, Waiting
from modules.core.prompt import Prompt
from modules.core.worker_errors import Unloaded, WorkerDied
from modules.formats.embedding import EMBED, RANK
from modules.loaders.server_samplers import SERVER_NAMES
from modules.runtime.load_plan import LoadPlan, LoraAdapter
from modules.runtime.totals import GenerationTotals
from modules.runtime.worker_process import Deliver, WorkerProcess
from modules.system import cpu_memory
from modules.system.loop_mailbox import LoopMailbox

Reply = Text | Progress | Waiting | Done
Stop = Callable[[], Done]

GENERATE = ""
_REFUSALS: Mapping[str, type[WrongTask]] = {GENERATE: CannotGenerate, EMBED: CannotEmbed, RANK: CannotRank}
"""The error of a model that is asked for a task that is not its own."""


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA that is applied. `effect` is the largest change of a logit that it makes by itself on a probe text."""

    name: str
    weight: float
    effect: float


class Lease:
    """Keeps a model loaded until `release`, which may be called again. Any thread may call."""

    def __init__(self, model: LoadedModel, end: Callable[[], None]) -> None:
        self.model = model
        self._ends = [end]

    def release(self) -> None:
        with contextlib.suppress(IndexError):  # released already
            self._ends.pop()()

    def __enter__(self) -> LoadedModel:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class LoadedModel:
    """A model in its worker, and the LoRAs applied to it, which have changed `lora_changes` times. Any thread may call.

    Its worker may die at any time; every method then raises WorkerDied, or Unloaded if it was closed. `idle` is called
    when the last lease has been released; `totals` count its generations.
    """

    def __init__(
        self,
        plan: LoadPlan,
        worker: WorkerProcess,
        info: Info,
        idle: Callable[[], None] = lambda: None,
        totals: GenerationTotals | None = None,
    ) -> None:
        self._plan = plan
        self.record = plan.record
        self.loader = plan.loader
        self.settings = plan.settings
        self.info = info
        self.loras: tuple[AppliedLora, ...] = ()
        self.lora_problem = plan.lora_problem
        self._adapters: tuple[LoraAdapter, ...] = ()
        self.lora_changes = 0
        self._worker = worker
        self._idle = idle
        self._totals = totals or GenerationTotals()
        self._mailbox: LoopMailbox | None = None  # of the event loop that asked last
        self._leases = 0
        self._is_retired = False
        self._lock = threading.Lock()  # guards the two fields above

    @property
    def plan(self) -> LoadPlan:
        """The plan by which the model would be loaded as it is now, with the LoRAs that are applied."""
        return dataclasses.replace(self._plan, adapters=self._adapters)

    @property
    def abilities(self) -> frozenset[str]:
        """The abilities it has, as in `Loader.abilities`: those of its loader, or of its server."""
        return self.loader.abilities if self.info.abilities is None else frozenset(self.info.abilities)

    @property
    def samplers(self) -> frozenset[str]:
        """The keys of the generation parameters that it has: those of its loader, or as its server says."""
        return self.loader.samplers if self.info.samplers is None else frozenset(self.info.samplers)

    @property
    def engine_name(self) -> str:
        """The name of the engine that generates: its loader, and the kind of its server if it has one."""
        server = SERVER_NAMES.get(self.info.server, self.info.server)
        return f"{self.loader.name} ({server})" if server and server != self.loader.name else self.loader.name

    @property
    def memory(self) -> int:
        """Bytes of main memory that its worker holds now."""
        return cpu_memory.resident_memory(self._worker.pid)

    @property
    def pid(self) -> int:
        """The process of its worker."""
        return self._worker.pid

    @property
    def is_reachable(self) -> bool:
        """Whether the server on which it runs answers; a model that runs here always does."""
        return self._worker.is_server_reachable

    @property
    def generations(self) -> int:
        """How many generations are under way or queued."""
        return self._worker.count_calls("generate")

    @property
    def is_busy(self) -> bool:
        """Whether somebody uses the model."""
        return self._leases > 0 or self.generations > 0

    def lease(self) -> Lease:
        """Keep the model loaded until the lease is released. Raises Unloaded if it is about to be closed."""
        with self._lock:
            if self._is_retired:
                raise Unloaded()
            self._leases += 1
        return Lease(self, self._end_lease)

    def _end_lease(self) -> None:
        with self._lock:
            self._leases -= 1
            is_idle = self._leases == 0
        if is_idle:
            self._idle()

    def retire(self) -> bool:
        """Give out no more leases, so that the model can be closed. Return False if it is in use."""
        with self._lock:
            self._is_retired = self._is_retired or not self.is_busy
            return self._is_retired

    @property
    def death(self) -> WorkerDied | Unloaded | None:
        return self._worker.death

    def require(self, task: str) -> None:
        """Raise CannotGenerate, CannotEmbed or CannotRank unless this is the model's task: see `Info.task`."""
        if self.info.task != task:
            raise _REFUSALS[task](self.record.name, KINDS[self.info.task])

    def ask(self, operation: str, **args: Json) -> Json:
        """Return the engine's answer to a quick operation, such as "encode"."""
        self._check(operation)
        return self._worker.call(operation, **args, **self._route)

    @property
    def _route(self) -> dict[str, Json]:
        """The programs that the request has passed which is served in this context, for the model's server."""
        programs = request_route.passed() if self.info.server else ()
        return {"passed": list(programs)} if programs else {}

    def _check(self, operation: str) -> None:
        if operation == "next":
            self.require(GENERATE)

    async def ask_async(self, operation: str, **args: Json) -> Json:
        """Do as `ask` in an event loop, without a waiting thread."""
        self._check(operation)
        end: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

        def settle(event: Event) -> None:
            if isinstance(event, ENDS) and not end.done():
                end.set_result(event)

        call = self._worker.start(operation, self._into_loop(settle), **args, **self._route)
        try:
            event = await end
        finally:
            self._worker.cancel(call)
        if isinstance(event, Failed):
            raise event.error
        return event.value if isinstance(event, Result) else None

    async def measure(self, prompt: Prompt, params: Mapping[str, Json]) -> int:
        """Return how many tokens the whole of a prompt has, images included, even if they are too many.

        Raises TextTooLong for a text that is not tokenized, as it could not fit whatever its tokens are.
        """
        return int(await self.ask_async("measure", **_arguments(prompt, params)))

    def generate(self, prompt: Prompt, params: Mapping[str, Json]) -> Iterator[Event]:
        """Yield text as it is generated, then Done. Closing the iterator stops the generation.

        Raises CannotGenerate for an embedding model.
        """
        self.require(GENERATE)
        return self._worker.events("generate", **_arguments(prompt, params), **self._route)

    def start(self, prompt: Prompt, params: Mapping[str, Json], deliver: Deliver) -> Stop:
        """Start a generation and return a function that stops it. `deliver` gets the events, in the worker's thread.

        Once it is stopped, no more events come; the function returns an end with what is known of the prompt.
        Raises CannotGenerate for an embedding model.
        """
        self.require(GENERATE)
        arguments = _arguments(prompt, params)
        counted = self._totals.counting(deliver)
        call = self._worker.start("generate", counted, **arguments, **self._route)

        def stop() -> Done:
            counted.stopped()
            return self._worker.cancel(call)

        return stop

    def start_in_loop(self, prompt: Prompt, params: Mapping[str, Json], deliver: Deliver) -> Stop:
        """Do as `start`, but have `deliver` called in the running event loop."""
        return self.start(prompt, params, self._into_loop(deliver))

    def _into_loop(self, deliver: Deliver) -> Deliver:
        """Return a function for any thread that has `deliver` called in the running event loop."""
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = LoopMailbox(loop)
        return partial(self._mailbox.post, deliver)

    async def stream(self, prompt: Prompt, params: Mapping[str, Json]) -> AsyncGenerator[Reply, None]:
        """Generate in an event loop, without a waiting thread. Cancelling the task stops the generation."""
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        stop = self.start_in_loop(prompt, params, inbox.put_nowait)
        try:
            while True:
                event = await inbox.get()
                if isinstance(event, Failed):
                    raise event.error
                if not isinstance(event, Begun | Result):
                    yield event
                if isinstance(event, ENDS):
                    return
        finally:
            stop()

    def apply_loras(self, adapters: Sequence[LoraAdapter]) -> None:
        """Apply these LoRAs and no others, once the generations under way have ended.

        Raises LoraRefused, LoraWithoutEffect or Unsupported; the LoRAs applied before then still are.
        """
        effects: Sequence[float] = []
        if adapters or self.loras:
            requests = [{"name": one.name, "path": str(one.path or ""), "weight": one.weight} for one in adapters]
            effects = self._worker.call("apply_loras", adapters=requests)
        self.loras = tuple(
            AppliedLora(adapter.name, adapter.weight, effect) for adapter, effect in zip(adapters, effects, strict=True)
        )
        self.lora_problem = None
        self.lora_changes += tuple(adapters) != self._adapters
        self._adapters = tuple(adapters)

    def close(self) -> None:
        self._worker.close()


def _arguments(prompt: Prompt, params: Mapping[str, Json]) -> dict[str, Json]:
    """Return the arguments of "generate": what the prompt says of its answer is added to the parameters."""
    stop = {"stop": [*params["stop"], *prompt.stop]} if prompt.stop else {}
    visible = {"visible": prompt.visible} if prompt.visible else {}
    next_turn = {"next_turn": prompt.next_turn} if prompt.next_turn else {}
    return {"prompt": prompt.to_json(), "params": {**params, **stop, **visible, **next_turn}}
