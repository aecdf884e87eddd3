"""uvicorn's HTTP protocol, bounded: clients that send half a request are cut off, and connections are limited.

uvicorn itself times out idle connections between two requests only, and its `limit_concurrency` refuses everybody once
idle connections fill it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_SECONDS = 30.0
"""Time for a request to arrive. A body gets more, by the rate at which it comes."""
MIN_BODY_RATE = 20_000
"""Bytes a second that a body must arrive at on average after the first REQUEST_SECONDS."""
MAX_HEAD_BYTES = 65_536
MAX_CONNECTIONS = 2048
MAX_OPEN_FILES = 2 * MAX_CONNECTIONS
"""Files that the process should be allowed to have open: half of them are for all else."""
KEEP_ALIVE_SECONDS = 60
"""Time for which an idle connection is kept for the next request."""

_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\ncontent-length: 0\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A timer runs from its start, or the first byte of a request, until the request is complete."""

    max_connections = MAX_CONNECTIONS
    _timer: asyncio.TimerHandle | None = None
    _began = 0.0
    _head_bytes = 0
    _body_bytes = 0
    _in_head = True
    _head_ended = False  # within the data that arrived last

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_timer()
        if len(self.connections) > self.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._timer is None:
            self._start_timer()
        self._head_ended = not self._in_head
        super().data_received(data)
        if not self._head_ended:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._cut_off(_HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes, self._body_bytes = True, 0, 0
        if self._timer is None:
            self._start_timer()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_ended = False, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    @property
    def is_serving(self) -> bool:
        """Whether a request has arrived completely, and its answer has not been sent."""
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _start_timer(self) -> None:
        self._began = self.loop.time()
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        deadline = self._began + REQUEST_SECONDS + self._body_bytes / MIN_BODY_RATE
        if self.is_serving:  # it has begun to send the next request, and may go on after the answer
            deadline = self.loop.time() + REQUEST_SECONDS
        if self.loop.time() < deadline:
            self._timer = self.loop.call_at(deadline, self._time_out)
        elif not self.transport.is_closing():
            self._cut_off(b"" if self.cycle is not None and self.cycle.response_started else _TIMEOUT)

    def _cut_off(self, answer: bytes) -> None:
        self._stop_timer()
        if answer:
            self.transport.write(answer)
        self.transport.close()

    def _make_room(self) -> None:
        """Close the connection that has waited longest for a request, or refuse this one if all are being served."""
        waiting = [
            other
            for other in self.connections
            if isinstance(other, BoundedProtocol) and other is not self and not other.is_serving
        ]
        if waiting:
            min(waiting, key=lambda other: other._began).transport.abort()
        else:
            self._cut_off(_FULL)


def protocol_for(open_files: int) -> type[BoundedProtocol]:
    """Return the protocol of a process that may have so many files open; 0 means that there is no limit."""
    allowed = open_files // 2 or MAX_CONNECTIONS

    class LimitedProtocol(BoundedProtocol):
        max_connections = min(MAX_CONNECTIONS, allowed)

    return LimitedProtocol
