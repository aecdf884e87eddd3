"""Watch whether a server answers while nothing is generated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from modules.core.errors import WebUIError
from modules.core.events import ServerState
from modules.engines.served.http_client import HttpClient

INTERVAL_SECONDS = 10.0
ANSWER_SECONDS = 5.0
MOST_MISSES = 3
"""So many questions in a row without an answer, and the server counts as unreachable."""
_FAILURES = range(500, 600)


class Health:
    """Asks the server regularly, and notifies when it has become unreachable or answers again. In the event loop."""

    def __init__(self, client: HttpClient, path: str, notify: Callable[[ServerState], None]) -> None:
        self._client, self._path, self._notify = client, path, notify
        self._misses = 0
        self._is_reachable = True

    async def watch(self, is_idle: Callable[[], bool]) -> None:
        """Ask for ever, while `is_idle`: streams tell more of a server that is at work."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            if is_idle():
                await self.ask()

    async def ask(self) -> None:
        """Ask once. A refusal is an answer too: a proxy may not know the address."""
        try:
            response = await self._client.request(self._path, seconds=ANSWER_SECONDS)
        except WebUIError:
            self._miss()
        else:
            self._miss() if response.status in _FAILURES else self.heard()

    def heard(self) -> None:
        """Note that the server has answered something."""
        self._misses = 0
        self._become(True)

    def _miss(self) -> None:
        self._misses += 1
        if self._misses >= MOST_MISSES:
            self._become(False)

    def _become(self, is_reachable: bool) -> None:
        if is_reachable != self._is_reachable:
            self._is_reachable = is_reachable
            self._notify(ServerState(is_reachable))
