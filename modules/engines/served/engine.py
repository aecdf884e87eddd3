"""The engine of a model that a server runs: many generations at once, in one event loop, each over its connection."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from modules.core.errors import WebUIError
from modules.core.events import ENDS, Event, Failed, Json, Progress, Result, ServerState, Waiting
from modules.core.prompt import Prompt
from modules.core.quotes import in_quotes
from modules.engines.engine_protocol import Operations, Report
from modules.engines.error_edge import as_error
from modules.engines.served.discovery import Choices, discover, info_of
from modules.engines.served.generation import Generation, Limits
from modules.engines.served.health import Health
from modules.engines.served.outbox import Outbox
from modules.engines.served.parameters import missing
from modules.engines.served.prompts import is_quick, measured, served_prompt
from modules.engines.served.server_connection import ServerConnection
from modules.engines.served.server_kind import ServerKind
from modules.engines.served.target import Target
from modules.options.option import Value

COARSE_STREAMS = 64
"""Above so many generations at once, the server is asked for an event every COARSE_INTERVAL tokens."""
COARSE_INTERVAL = 4
_THREADS = 8
T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, Event]]
"""What ends a call, for the event loop."""


class ServedEngine:
    """A `TextEngine` for a server. Closing it leaves the server as it is."""

    def __init__(self, connection: ServerConnection, kind: ServerKind, limits: Limits) -> None:
        self.info = info_of(kind, limits.streams)
        self.notify: Callable[[ServerState], None] = lambda state: None
        self.operations: Operations = kind.operations
        self.questions: Operations = {**kind.questions, "measure": self._measure}
        self._connection, self._kind, self._limits = connection, kind, limits
        self._loop = connection.loop
        self._outbox = Outbox(self._read_on)
        # Touched in the event loop alone:
        self._tasks: dict[int, asyncio.Task[Event]] = {}
        self._generations: dict[int, Generation] = {}
        self._queue: deque[tuple[int, asyncio.Event]] = deque()
        self._running = 0
        self._preparing = ThreadPoolExecutor(_THREADS, "prompts")
        self._answering = ThreadPoolExecutor(_THREADS, "questions")
        self._health = Health(connection.client, kind.health, lambda state: self.notify(state))
        self._watch = asyncio.run_coroutine_threadsafe(self._health.watch(lambda: self._running == 0), self._loop)

    @classmethod
    def open(cls, target: Target, options: Mapping[str, Value], report: Report) -> ServedEngine:
        """Connect to a server by the options of the loader Remote, and find out what it can do.

        Raises the errors of `discovery.discover`.
        """
        report(Progress("weights", 0.0))
        connection = ServerConnection(target)
        choices = Choices(
            model=str(options["server_model"]),
            kind=str(options["server_kind"]),
            prompts=str(options["server_prompts"]),
            context_length=int(options["n_ctx"]),
        )
        try:
            kind = discover(connection.ask, choices)
        except WebUIError:
            connection.close()
            raise
        streams, seconds = int(options["server_streams"]), float(options["server_timeout"])
        return cls(connection, kind, Limits(streams, seconds, bool(options["resume_stream"])))

    def submit_text(self, call: int, prompt: Prompt, params: Mapping[str, Json]) -> None:
        self._start(call, partial(self._generate, call, prompt, params))

    def submit_question(self, call: int, operation: str, args: Mapping[str, Json]) -> None:
        answer = {**self.operations, **self.questions}.get(operation)
        if answer is None:
            raise missing(f"the operation {operation!r}", f"操作{in_quotes(operation)}")
        self._start(call, partial(self._answer, partial(answer, **args)))

    def _start(self, call: int, work: Work) -> None:
        self._outbox.open(call)
        self._loop.call_soon_threadsafe(self._launch, call, work)

    def cancel(self, call: int) -> None:
        self._outbox.close(call)
        self._loop.call_soon_threadsafe(self._stop, call)

    def step(self) -> Iterator[tuple[int, Event]]:
        for call, event in self._outbox.take():
            if isinstance(event, ENDS):
                self._outbox.close(call)
            yield call, event

    @property
    def idle(self) -> bool:
        return not self._outbox.is_open

    def interrupt(self, urgent: bool) -> None:
        self._outbox.interrupt()

    def resume(self) -> None:
        self._outbox.resume()

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()
        for pool in (self._preparing, self._answering):
            pool.shutdown(wait=False, cancel_futures=True)

    # In the event loop

    def _launch(self, call: int, work: Work) -> None:
        task = self._tasks[call] = self._loop.create_task(work())
        task.add_done_callback(partial(self._put_end, call))

    def _put_end(self, call: int, task: asyncio.Task[Event]) -> None:
        self._tasks.pop(call, None)
        if not task.cancelled():
            error = task.exception()
            self._outbox.put(call, Failed(as_error(error)) if isinstance(error, Exception) else task.result())

    def _stop(self, call: int) -> None:
        if call in self._tasks:
            self._tasks.pop(call).cancel()

    async def _generate(self, call: int, prompt: Prompt, params: Mapping[str, Json]) -> Event:
        await self._take_turn(call)
        try:
            prepare = partial(served_prompt, prompt, self._kind, params)
            if is_quick(prompt, self._kind, params):  # a thread would take longer
                served = prepare()
            else:
                served = await self._loop.run_in_executor(self._preparing, _in_context(prepare))
            done = await self._generation(call).run(served, params)
        finally:
            self._generations.pop(call, None)
            self._end_turn()
        self._health.heard()
        return done

    def _generation(self, call: int) -> Generation:
        interval = COARSE_INTERVAL if self._running > COARSE_STREAMS else 1
        generation = Generation(
            self._connection.client, self._kind, self._limits, partial(self._outbox.put, call), self._aside, interval
        )
        self._generations[call] = generation
        return generation

    async def _take_turn(self, call: int) -> None:
        """Wait until fewer generations run than `Limits.streams` allows."""
        if self._running < self._limits.streams and not self._queue:
            self._running += 1
            return
        turn = asyncio.Event()
        self._queue.append((call, turn))
        self._outbox.put(call, Waiting(len(self._queue)))
        try:
            await turn.wait()  # whoever wakes it has counted it as running
        except asyncio.CancelledError:
            if turn.is_set():
                self._end_turn()
            else:
                self._queue.remove((call, turn))
                self._tell_positions()
            raise

    def _end_turn(self) -> None:
        """Let the next generation begin in the place of one that has ended."""
        self._running -= 1
        if self._queue:
            self._running += 1
            self._queue.popleft()[1].set()
            self._tell_positions()

    def _tell_positions(self) -> None:
        for position, (call, _) in enumerate(self._queue, 1):
            self._outbox.put(call, Waiting(position))

    async def _answer(self, answer: Callable[[], Json]) -> Event:
        return Result(await self._aside(answer))

    def _aside(self, work: Callable[[], T]) -> Awaitable[T]:
        """Run a function that asks the server in another thread."""
        return self._loop.run_in_executor(self._answering, _in_context(work))

    def _measure(self, prompt: Json, params: Mapping[str, Json]) -> int:
        return measured(Prompt.from_json(prompt), self._kind)

    def _read_on(self, call: int) -> None:
        """Read more of a call, whose text has been taken. Called by the thread of `step`."""

        def read_on() -> None:
            if call in self._generations:
                self._generations[call].resume_reading()

        self._loop.call_soon_threadsafe(read_on)


def _in_context(work: Callable[[], T]) -> Callable[[], T]:
    """Return `work` for another thread, which is to know the programs that the request has passed."""
    return partial(contextvars.copy_context().run, work)
