"""End the work for a request when its client disconnects."""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive


class WhileConnected:
    """Cancel the block, an `async with`, when the client disconnects, and raise ClientDisconnect in its place.

    The body of the request must have been read: no other message can arrive then.
    """

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._receive = task, receive
        self._others = _cancellations(task)  # that are not ours
        self._is_open, self._has_left = True, False

    async def __aenter__(self) -> None:
        self._watch = asyncio.create_task(_wait_for_disconnect(self._receive))
        self._watch.add_done_callback(self._end)

    def _end(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled() and self._is_open:
            self._has_left = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self._watch.cancel()
        if self._has_left and _take_back(self._task) <= self._others and kind is asyncio.CancelledError:
            raise ClientDisconnect from self._watch.exception()


def _cancellations(task: asyncio.Task[Any]) -> int:
    """Return how often a task was cancelled and has not ended; Python 3.10 does not count that."""
    if sys.version_info >= (3, 11):
        return task.cancelling()
    return 0


def _take_back(task: asyncio.Task[Any]) -> int:
    """Take back one cancellation, and return how many are left."""
    if sys.version_info >= (3, 11):
        return task.uncancel()
    return 0


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
