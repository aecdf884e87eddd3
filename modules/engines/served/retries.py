"""Decide when a request that has brought nothing yet is sent again."""

from __future__ import annotations

from modules.core.errors import WebUIError
from modules.core.server_errors import (
    LONGEST_WAIT,
    ServerBrokeOff,
    ServerBusy,
    ServerLost,
    ServerRefused,
    ServerSilent,
    ServerUnreachable,
)

PAUSES = (0.2, 1.0, 3.0)
"""Seconds before each new try."""
_BUSY_PAUSES = (1.0, 2.0, 4.0, 8.0)
_PASSING = (502, 503, 504)
"""Statuses of a gateway whose server is being restarted, or of a server that is starting."""


class Retries:
    """The tries of one request."""

    def __init__(self) -> None:
        self._failures = 0
        self._rejections = 0
        self._waited = 0.0

    def pause_after(self, error: WebUIError) -> float | None:
        """Return the seconds to wait before the request is sent again; None if the error is final.

        A server that is busy is asked again for LONGEST_WAIT seconds. One that cannot be reached, or breaks off, gets
        as many new tries as there are PAUSES. Silence and other refusals are final.
        """
        if isinstance(error, ServerBusy):
            pause = error.wait or _BUSY_PAUSES[min(self._rejections, len(_BUSY_PAUSES) - 1)]
            self._rejections += 1
            self._waited += pause
            return pause if self._waited <= LONGEST_WAIT else None
        if not _may_pass(error) or self._failures == len(PAUSES):
            return None
        self._failures += 1
        wait = error.wait if isinstance(error, ServerRefused) else 0.0
        return max(PAUSES[self._failures - 1], wait)


def _may_pass(error: WebUIError) -> bool:
    if isinstance(error, ServerRefused):
        return error.code in _PASSING
    return isinstance(error, (ServerUnreachable, ServerLost)) and not isinstance(error, (ServerSilent, ServerBrokeOff))
