"""Threads for jobs that would hold up an event loop: one thread, as long as each job is quick.

Threads that run at once take the GIL from each other and from the loop. For hundreds of jobs that take a fraction of a
millisecond each, that costs more than the jobs themselves.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from modules.system.cancellation import CancelToken
from modules.system.loop_mailbox import LoopMailbox

T = TypeVar("T")

PATIENCE_SECONDS = 0.01
"""How long one job may hold up the others before another thread helps."""
MOST_THREADS = 32
IDLE_SECONDS = 60.0
"""How long a thread is kept without any job."""
THREAD_NAME = "work"


@dataclass(eq=False, slots=True)
class _Job:
    call: Callable[[], Any]
    token: CancelToken
    outcome: asyncio.Future[Any] | None
    mailbox: LoopMailbox

    def do(self) -> None:
        """Do the job, unless nobody waits for it any more, and post how it ended."""
        if not self.token.is_cancelled:
            self.mailbox.post(self._settle, _ended(self.call))

    def _settle(self, end: tuple[Any, BaseException | None]) -> None:
        result, error = end
        outcome, self.outcome = self.outcome, None  # the frames of an error refer to this job
        if outcome is None or outcome.done():
            return
        if error is None:
            outcome.set_result(result)
        else:
            outcome.set_exception(error)


def _ended(call: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """Return the result of a call, or its error."""
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 (raised to whoever waits for the job)
        return None, error


class WorkThreads:
    """Does the jobs of the tasks of one event loop, in the order in which they come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the fields below
        self._jobs: deque[_Job] = deque()
        self._moved_at, self._mover = 0.0, 0  # when a job last began or ended, and in which thread
        self._active = self._idle = 0  # threads
        self._is_watched = False
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._mailbox: LoopMailbox | None = None

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Do as `asyncio.to_thread`, and cancel the job when the task that waits for it is cancelled."""
        loop, token = asyncio.get_running_loop(), CancelToken()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox, self._is_watched = LoopMailbox(loop), False
        outcome: asyncio.Future[T] = loop.create_future()
        call = partial(copy_context().run, token.run, function, *args)
        try:
            self._add(_Job(call, token, outcome, self._mailbox))
            return await outcome
        finally:
            token.cancel()
            del outcome  # the frames of an error refer to this one

    def _add(self, job: _Job) -> None:
        with self._lock:
            self._jobs.append(job)
            if not self._active or self._is_stuck():
                self._activate()
            if not self._is_watched:
                self._watch(job.mailbox.loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again soon, as long as jobs wait. To be called with the lock."""
        self._is_watched = bool(self._jobs)
        if self._is_watched:
            loop.call_later(PATIENCE_SECONDS, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            try:
                if self._jobs and self._is_stuck():
                    self._activate()
            finally:
                self._watch(loop)

    def _is_stuck(self) -> bool:
        """Whether the jobs under way take long, and another thread may help."""
        return self._active < MOST_THREADS and time.monotonic() - self._moved_at > PATIENCE_SECONDS

    def _activate(self) -> None:
        """Let one more thread take jobs. To be called with the lock."""
        if self._idle:
            self._idle -= 1
            self._wakes.put(None)
        else:
            threading.Thread(target=self._serve, name=THREAD_NAME, daemon=True).start()
        self._active += 1
        self._moved_at, self._mover = time.monotonic(), 0

    def _serve(self) -> None:
        while True:
            while (job := self._next()) is not None:
                job.do()
            if not self._is_woken():
                return

    def _is_woken(self) -> bool:
        """Wait until jobs wait for this thread. Return False if there have been none for long."""
        while True:
            try:
                self._wakes.get(timeout=IDLE_SECONDS)
                return True
            except queue.Empty:
                with self._lock:
                    if self._wakes.empty():  # otherwise a wake-up has come just now
                        self._idle -= 1
                        return False

    def _next(self) -> _Job | None:
        """Return the next job; None if there is none, or if another thread has just taken one and goes on alone."""
        with self._lock:
            now, thread = time.monotonic(), threading.get_ident()
            is_spare = self._active > 1 and self._mover not in (0, thread) and now - self._moved_at < PATIENCE_SECONDS
            if self._jobs and not is_spare:
                self._moved_at, self._mover = now, thread
                return self._jobs.popleft()
            self._active -= 1
            self._idle += 1
            return None
