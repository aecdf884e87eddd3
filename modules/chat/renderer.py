"""Render chat templates in child processes with limits of time, memory and output."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Json
from modules.core.recent import Recent
from modules.system.cancellation import Cancelled, raise_if_cancelled
from modules.system.limited_process import (
    OUT_OF_MEMORY,
    OUTPUT_TOO_LARGE,
    LimitedProcess,
    Limits,
    ProcessEnded,
)

SECONDS = 5
MEMORY_BYTES = 512 << 20
OUTPUT_BYTES = 8 << 20
"""The limits of one request."""
MOST_PROCESSES = 4
"""Renderings at once. A client with a template that takes all the time it may have delays no other client then."""
KEPT_PROCESSES = 2
"""Processes kept for the next requests."""
PATIENCE_SECONDS = 0.05
"""How long a rendering waits for one of the KEPT_PROCESSES before a further one is started, which takes as long."""
STOPPED_SECONDS = 60.0
"""How long a template that was stopped is refused without another try, which might only have met a busy machine."""
_REMEMBERED_STOPS = 32

_PROGRAM = Path(__file__).with_name("render_child.py")

_LIMITS: Mapping[int, Words] = {
    OUT_OF_MEMORY: {
        "en": f"it needed more than {MEMORY_BYTES >> 20} MB of memory",
        "zh": f"需要超过 {MEMORY_BYTES >> 20} MB 内存",
    },
    OUTPUT_TOO_LARGE: {
        "en": f"its output has more than {OUTPUT_BYTES >> 20} MB",
        "zh": f"输出超过 {OUTPUT_BYTES >> 20} MB",
    },
}
_OUT_OF_TIME: Words = {"en": f"it ran for more than {SECONDS} seconds", "zh": f"运行超过 {SECONDS} 秒"}


class LimitExceeded(Exception):
    """A template was stopped. `limit` says which limit it exceeded."""

    def __init__(self, limit: Words) -> None:
        super().__init__(limit["en"])
        self.limit = limit


@dataclass(frozen=True)
class Rendering:
    """The text of a rendering, or else why the template refused it and in which of its lines, 0 if not known."""

    text: str = ""
    error: str = ""
    line: int = 0

    def shows(self, *words: str) -> bool:
        """Whether it succeeded and all `words` are in its text."""
        return not self.error and all(word in self.text for word in words)


@dataclass(frozen=True)
class _Stop:
    """When a template was stopped, at which limit, and at a request of how many bytes."""

    at: float
    limit: Words
    size: int


class Renderer:
    """The processes that render templates; any thread may call. They are started when needed, and end with ours.

    A template that exceeded a limit is refused for STOPPED_SECONDS of `clock`, for requests of that size and larger
    ones: a conversation that is too long even for a harmless template does not keep others from shorter ones.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._processes = _Processes()
        self._stops: Recent[str, _Stop] = Recent(_REMEMBERED_STOPS)

    def render(
        self, template: str, common: Mapping[str, Json], variants: Sequence[Mapping[str, Json]]
    ) -> list[Rendering]:
        """Render `template` once for each of `variants`, which are added to the `common` variables.

        Raises LimitExceeded if all of them together exceed a limit, or did so a short time ago.
        """
        raise_if_cancelled()
        request = json.dumps([template, common, variants], ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        self._refuse_stopped(template, len(request))
        with self._processes.turn() as turn:
            self._refuse_stopped(template, len(request))  # perhaps stopped while this one waited
            try:
                answer = _ask(turn, request)
            except LimitExceeded as error:
                self._remember_stop(template, len(request), error.limit)
                raise
        results = json.loads(answer.decode("utf-8", "surrogatepass"))
        return [Rendering(value) if kind == "text" else Rendering("", value, line) for kind, value, line in results]

    def close(self) -> None:
        """End the processes that are idle."""
        self._processes.close()

    def _refuse_stopped(self, template: str, size: int) -> None:
        with self._lock:
            stop = self._stops.get(template)
            if stop is not None and self._clock() - stop.at >= STOPPED_SECONDS:
                del self._stops[template]
            elif stop is not None and size >= stop.size:
                raise LimitExceeded(stop.limit)

    def _remember_stop(self, template: str, size: int, limit: Words) -> None:
        with self._lock:
            before = self._stops.get(template)  # of another request that ran at the same time
            self._stops[template] = _Stop(self._clock(), limit, min(size, before.size) if before else size)


@dataclass
class _Turn:
    """The turn of one rendering, with the process that it has: None if it has to start one, or has none left."""

    process: LimitedProcess | None


class _Processes:
    """Gives renderings a process each, MOST_PROCESSES at once, and keeps some for the next ones."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[LimitedProcess] = []
        self._turns = 0

    @contextlib.contextmanager
    def turn(self) -> Iterator[_Turn]:
        """Wait for a turn. The process that it has at the end is kept for another one, or ended."""
        with self._changed:
            # Most renderings are quick, and a further process would take longer to start than they take.
            self._changed.wait_for(lambda: self._idle or self._turns < KEPT_PROCESSES, PATIENCE_SECONDS)
            self._changed.wait_for(lambda: self._idle or self._turns < MOST_PROCESSES)
            self._turns += 1
            turn = _Turn(self._idle.pop() if self._idle else None)
        try:
            yield turn
        finally:
            with self._changed:
                self._turns -= 1
                kept = turn.process is not None and len(self._idle) < KEPT_PROCESSES
                if turn.process is not None and kept:
                    self._idle.append(turn.process)
                self._changed.notify_all()  # they wait for different things
            if turn.process is not None and not kept:
                turn.process.kill()

    def close(self) -> None:
        """End the processes that are idle."""
        with self._changed:
            idle, self._idle = self._idle, []
        for process in idle:
            process.kill()


def _ask(turn: _Turn, request: bytes) -> bytes:
    raise_if_cancelled()
    if turn.process is not None:
        try:
            return _answer(turn, turn.process, request)
        except ProcessEnded as ended:
            raise_if_cancelled()
            if ended.code in _LIMITS or ended.timed_out:
                raise LimitExceeded(_limit_of(ended)) from None
            # It may have been killed while it was idle.
    try:
        return _answer(turn, LimitedProcess(_PROGRAM, Limits(SECONDS, MEMORY_BYTES, OUTPUT_BYTES)), request)
    except ProcessEnded as ended:
        raise_if_cancelled()  # which has ended the process
        raise LimitExceeded(_limit_of(ended)) from None


def _answer(turn: _Turn, process: LimitedProcess, request: bytes) -> bytes:
    turn.process = None
    try:
        answer = process.ask(request)
    except Cancelled:  # just before it was asked
        process.kill()
        raise
    turn.process = process
    return answer


def _limit_of(ended: ProcessEnded) -> Words:
    crash: Words = {
        "en": f"it crashed the process that renders it (exit code {ended.code})",
        "zh": f"它导致渲染进程崩溃（退出码 {ended.code}）",
    }
    return _OUT_OF_TIME if ended.timed_out else _LIMITS.get(ended.code, crash)
