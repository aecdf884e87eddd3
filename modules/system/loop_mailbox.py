"""Bring what other threads post into an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class LoopMailbox:
    """Deliver items in an event loop, in the order in which they were posted. Any thread may post.

    The loop is woken once for all that have arrived meanwhile: a step of an engine has an event for each of hundreds of
    streams.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._posted: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._is_woken = False

    def post(self, deliver: Callable[[T], None], item: T) -> None:
        """Have `deliver` called with `item` in the loop; not at all if the loop is closed."""
        self._posted.append((deliver, item))
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._deliver_all)

    def _deliver_all(self) -> None:
        self._is_woken = False  # before looking: what is posted from now on wakes the loop again
        while self._posted:
            deliver, item = self._posted.popleft()
            deliver(item)
