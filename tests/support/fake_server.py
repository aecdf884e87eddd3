"""A real HTTP server on localhost whose responses are scripted, down to the byte at which it breaks off.

    with FakeServer() as server:
        server.add("/v1/models", Reply(json={"data": []}))
        server.add("/v1/completions", Reply(429), stream(b"data: {}", b"data: [DONE]"))
        ... server.url ... server.requests ...

The replies of a path are given in order, the last one again and again; any other path is answered 404.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

CUT = "cut"
"""A part of a reply: close the connection before the body is complete."""
RESET = "reset"
"""A part of a reply: reset the connection."""
STALL = "stall"
"""A part of a reply: send nothing more until the client closes the connection, or the server is closed."""

Part = bytes | float | str | Callable[[], object]
"""Bytes to send at once, seconds to wait, a function to call, or one of the words above."""


@dataclass(frozen=True)
class Request:
    """A request that has arrived. Header names are in lower case; `number` counts from 0."""

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """A response. Its body is `json`, or the `parts`, which are sent as chunks unless there is a Content-Length.

    With `raw`, the parts are the whole response, status line and headers included.
    """

    status: int = 200
    parts: Sequence[Part] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    raw: bool = False


Answering = Reply | Callable[[Request], Reply]


def stream(*events: bytes | Part, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a reply of server-sent events: each of `events` in bytes is one, without the empty line after it."""
    parts = [event + b"\n\n" if isinstance(event, bytes) else event for event in events]
    return Reply(parts=parts, headers={"Content-Type": "text/event-stream", **(headers or {})})


def data(value: Any) -> bytes:
    """Return an event with a JSON value."""
    return b"data: " + json.dumps(value).encode()


class FakeServer:
    """The server, at a free port or at the Unix socket `path`; with TLS if there is a `context`.

    `requests` are those that arrived, `gone` the numbers of those whose client went away before the reply was complete.
    """

    def __init__(self, path: Path | None = None, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.gone: list[int] = []
        self._replies: dict[str, list[Answering]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._context = context
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            port = self._listener.getsockname()[1]
            self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{port}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
            self.url = "http://localhost"
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, path: str, *replies: Answering) -> None:
        """Answer requests of a path, without its query, with these replies from now on."""
        with self._lock:
            self._replies[path] = list(replies)

    def close(self) -> None:
        """Stop listening and reset all connections, as if the process had been killed."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in list(self._connections):
            _reset(connection)

    def wait_for(self, holds: Callable[[], bool], seconds: float = 4.0) -> bool:
        """Wait until `holds`, which is asked when a request has arrived or a client has gone; tell whether it did."""
        with self._changed:
            return self._changed.wait_for(holds, seconds)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._connections.add(connection)
        with contextlib.suppress(OSError, ValueError):
            if self._context is not None:
                self._connections.discard(connection)
                connection = self._context.wrap_socket(connection, server_side=True)
                self._connections.add(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) if connection.family != 1 else None
            request = self._read(connection)
            if request is not None:
                self._reply(connection, request)
        self._connections.discard(connection)
        connection.close()

    def _read(self, connection: socket.socket) -> Request | None:
        received = bytearray()
        while b"\r\n\r\n" not in received:
            chunk = connection.recv(1 << 16)
            if not chunk:
                return None
            received += chunk
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        parts = [body]
        missing = int(headers.get("content-length", 0)) - len(body)
        while missing > 0:
            parts.append(connection.recv(1 << 16))
            missing -= len(parts[-1])
        method, path, _ = first.split(" ")
        with self._lock:
            request = Request(len(self.requests), method, path, headers, b"".join(parts))
            self.requests.append(request)
        self._notify()
        return request

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _reply(self, connection: socket.socket, request: Request) -> None:
        with self._lock:
            replies = self._replies.get(request.path.partition("?")[0], [Reply(404, json={"error": "not found"})])
            answering = replies.pop(0) if len(replies) > 1 else replies[0]
        reply = answering(request) if callable(answering) else answering
        try:
            self._send(connection, reply)
        except OSError:
            self.gone.append(request.number)
            self._notify()

    def _send(self, connection: socket.socket, reply: Reply) -> None:
        headers = {"Connection": "close", **reply.headers}
        parts: Iterable[Part] = reply.parts
        if reply.json is not None:
            parts = [json.dumps(reply.json).encode()]
            headers = {"Content-Type": "application/json", "Content-Length": str(len(next(iter(parts))))} | headers
        names = {name.lower() for name in headers}
        is_chunked = not reply.raw and "content-length" not in names
        if is_chunked:
            headers["Transfer-Encoding"] = "chunked"
        if not reply.raw:
            lines = [f"HTTP/1.1 {reply.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        for part in parts:
            if isinstance(part, bytes):
                connection.sendall(b"%x\r\n%b\r\n" % (len(part), part) if is_chunked and part else part)
            elif not self._act(connection, part):
                return
        if is_chunked:
            connection.sendall(b"0\r\n\r\n")

    def _act(self, connection: socket.socket, part: float | str | Callable[[], object]) -> bool:
        """Carry out a part that is not bytes; False ends the reply. Raises OSError if the client has gone."""
        if callable(part):
            part()
            return True
        if part == CUT:
            return False
        if part == RESET:
            _reset(connection)
            return False
        seconds = None if part == STALL else float(part)
        connection.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            if not connection.recv(1):
                raise ConnectionResetError
        connection.settimeout(None)
        return True


def _reset(connection: socket.socket) -> None:
    """Close a connection so that the other side gets an error instead of an end."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
        connection.close()
