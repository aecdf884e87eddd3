"""Bring the events of workers into an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from modules.core.events import Event
from modules.runtime.worker_process import Deliver


class LoopMailbox:
    """Deliver events in an event loop, in the order in which they were posted. Any thread may post.

    The loop is woken once for all events that have arrived meanwhile: a step of an engine has one for each of hundreds
    of streams.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._posted: deque[tuple[Deliver, Event]] = deque()
        self._is_woken = False

    def post(self, deliver: Deliver, event: Event) -> None:
        """Have `deliver` called with `event` in the loop; not at all if the loop is closed."""
        self._posted.append((deliver, event))
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._deliver_all)

    def _deliver_all(self) -> None:
        self._is_woken = False  # before looking: what is posted from now on wakes the loop again
        while self._posted:
            deliver, event = self._posted.popleft()
            deliver(event)
