"""Stop work in a thread whose result is no longer wanted.

A thread cannot be ended from outside. Work that may take seconds therefore asks between its steps, by
`raise_if_cancelled`, and while it waits for another process, it names by `on_cancel` what ends the wait.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """Raised in work whose result is no longer wanted. Nobody is waiting for an explanation."""


class CancelToken:
    """Says whether the result of some work is still wanted. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: list[Callable[[], None]] = []
        self.is_cancelled = False

    def cancel(self) -> None:
        """Make the work end: it raises Cancelled at its next step. Calling again does nothing."""
        with self._lock:  # held meanwhile, so that no action comes after the block of its `on_cancel`
            if not self.is_cancelled:
                self.is_cancelled = True
                for action in self._actions:
                    action()

    def run(self, work: Callable[..., T], *args: Any) -> T:
        """Return what `work` returns, which this token can cancel. Raises Cancelled, and what `work` raises."""
        return contextvars.copy_context().run(self._run, work, *args)

    def _run(self, work: Callable[..., T], *args: Any) -> T:
        _TOKEN.set(self)
        return work(*args)

    @contextlib.contextmanager
    def on_cancel(self, action: Callable[[], None]) -> Iterator[None]:
        """Call `action` if the work is cancelled during the block; raise Cancelled if it has been before."""
        with self._lock:
            if self.is_cancelled:
                raise Cancelled
            self._actions.append(action)
        try:
            yield
        finally:
            with self._lock:
                self._actions.remove(action)


_TOKEN: contextvars.ContextVar[CancelToken | None] = contextvars.ContextVar("cancel_token", default=None)


def raise_if_cancelled() -> None:
    """Raise Cancelled if the result of the current work is no longer wanted."""
    token = _TOKEN.get()
    if token is not None and token.is_cancelled:
        raise Cancelled


@contextlib.contextmanager
def on_cancel(action: Callable[[], None]) -> Iterator[None]:
    """Call `action`, in another thread, if the current work is cancelled during the block.

    The action must be quick and must not fail. Raises Cancelled if the work has been cancelled before.
    """
    token = _TOKEN.get()
    with contextlib.nullcontext() if token is None else token.on_cancel(action):
        yield
