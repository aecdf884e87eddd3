"""Parts that streams of Server-Sent Events share: their form, and the wait for news."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from starlette.responses import Response, StreamingResponse

from modules.core.events import Json

FLUSH_SECONDS = 0.15
"""Shortest time between two rounds. A page that draws each token would take the processor that decodes them."""
PING_SECONDS = 15.0
PING = b": still here\n\n"

News = list[tuple[str, Json]]
"""Events with their names."""


class Waker:
    """Lets a stream wait until there is news. To be made in the event loop; any thread may call `wake`."""

    def __init__(self) -> None:
        self._loop, self._woken = asyncio.get_running_loop(), asyncio.Event()
        self._waiting = False  # only one wake-up is under way, however many tokens arrive
        self._started = 0.0

    def wake(self) -> None:
        if not self._waiting and not self._loop.is_closed():
            self._waiting = True
            self._loop.call_soon_threadsafe(self._woken.set)

    def begin(self) -> None:
        """Begin a round: what is reported from now on leads to another one."""
        self._started, self._waiting = time.monotonic(), False

    async def wait(self) -> bool:
        """Wait for news, at least FLUSH_SECONDS since `begin`. Returns False after PING_SECONDS without any."""
        await asyncio.sleep(max(0.0, FLUSH_SECONDS - (time.monotonic() - self._started)))
        try:
            await asyncio.wait_for(self._woken.wait(), PING_SECONDS)
            return True
        except asyncio.TimeoutError:
            return False
        finally:
            self._woken.clear()


def stream_response(events: AsyncIterator[bytes]) -> Response:
    """Return the answer that sends events, which neither caches nor proxies hold back."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def event_bytes(name: str, body: Json) -> bytes:
    """Return an event as it is sent."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode("utf-8", "replace")
