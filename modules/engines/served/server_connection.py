"""The event loop in which all exchanges with one server run, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from modules.core.errors import Words
from modules.core.events import Json
from modules.core.server_errors import ServerError, ServerNotUnderstood
from modules.engines.served.faults import LONGEST_REFUSAL, WEBPAGE, has_webpage, refusal
from modules.engines.served.http_client import LONGEST_BODY, HttpClient
from modules.engines.served.server_kind import ASK_SECONDS, Answer
from modules.engines.served.target import Target

T = TypeVar("T")

_NO_OBJECT: Words = {"en": "it is not a JSON object", "zh": "不是 JSON 对象"}


class ServerConnection:
    """A server and the loop of its client. Its methods may be called from any thread but that of the loop.

    `longest` are the bytes that the response to a short request may have. Raises OptionError if the file of the
    certificate authority cannot be used.
    """

    def __init__(self, target: Target, longest: int = LONGEST_BODY) -> None:
        self.target, self._longest = target, longest
        self.client = HttpClient(target)
        self.loop = _new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="server", daemon=True)
        self._thread.start()

    def ask(self, path: str, body: Json = None, *, seconds: float = ASK_SECONDS) -> Answer:
        """Return the answer to a short request: see `server_kind.Ask`."""
        response = self.run(self.client.request(path, body, seconds=seconds, limit=self._longest))
        try:
            value = response.json()
        except (ValueError, RecursionError):
            value = None
        if not response.is_ok:
            error: ServerError = refusal(
                self.target, response.status, response.headers, response.body[:LONGEST_REFUSAL]
            )
            return Answer(response.status, value, error)
        if isinstance(value, dict):
            return Answer(response.status, value)
        return Answer(
            response.status,
            value,
            ServerNotUnderstood(self.target.origin, path, WEBPAGE if has_webpage(response.headers) else _NO_OBJECT),
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        """End the loop and with it all exchanges."""
        self.run(_cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop of uvloop, which takes half the time for a chunk, where it is installed: not on Windows."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
