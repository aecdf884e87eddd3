"""Half-sent requests and too many connections, with short times and few connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from modules.api import http_protocol
from modules.api.http_protocol import protocol_for
from tests.support.serving import serving

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer after 0.6 s if the path says so, otherwise at once, with the size of the body."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.6)  # twice REQUEST_SECONDS
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"%05d" % size})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(http_protocol, "REQUEST_SECONDS", 0.3)
    with serving(answer, http=protocol_for(6), lifespan="off", timeout_keep_alive=1) as address:
        yield int(address.rpartition(":")[2])


@pytest.fixture
def connect(port: int) -> Iterator[object]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))


def received(connection: socket.socket) -> bytes:
    """Return all that arrives until the server closes the connection."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
def test_half_a_request_is_cut_off(connect: object, sent: bytes) -> None:
    began, connection = time.monotonic(), connect()
    connection.sendall(sent)
    assert received(connection).startswith(b"HTTP/1.1 408")
    assert 0.2 < time.monotonic() - began < 2


@pytest.mark.parametrize("sent", [b"\r\n", b"GE"])
def test_half_a_request_after_a_whole_one_is_cut_off(connect: object, sent: bytes) -> None:
    connection = connect()
    connection.sendall(REQUEST)
    assert connection.recv(1000).endswith(b"00000")
    connection.sendall(sent)
    assert received(connection) in (b"", http_protocol._TIMEOUT)


def test_bytes_that_trickle_do_not_buy_time(connect: object) -> None:
    began, connection = time.monotonic(), connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - began < 5:
            connection.sendall(b"x")
            time.sleep(0.05)
    assert time.monotonic() - began < 3


def test_a_large_body_that_keeps_coming_is_taken(connect: object) -> None:
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
    for _ in range(6):
        connection.sendall(b"x" * 10_000)
        time.sleep(0.1)
    assert connection.recv(1000).endswith(b"60000")


def test_a_body_that_arrives_together_with_its_head_does_not_count_as_one(connect: object) -> None:
    connection = connect()
    size = http_protocol.MAX_HEAD_BYTES + 10_000
    for _ in range(10):  # how much arrives at once is up to the system
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        assert connection.recv(1000).endswith(b"%05d" % size)


def test_a_slow_answer_is_not_cut_off(connect: object) -> None:
    connection = connect()
    connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n")
    time.sleep(0.5)
    assert connection.recv(1000).endswith(b"00000")


class Greeting(asyncio.Protocol):
    """A protocol that takes over connections, and greets the client after longer than REQUEST_SECONDS."""

    def __init__(self, **_: object) -> None:
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(0.4, self._greet)

    def _greet(self) -> None:
        self._transport.write(b"hello")
        self._transport.close()


def test_a_connection_that_another_protocol_has_taken_over_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "REQUEST_SECONDS", 0.3)
    with serving(answer, http=protocol_for(6), lifespan="off", ws=Greeting) as address:
        connection = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=5)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert received(connection) == b"hello"


def test_endless_headers_are_refused(connect: object) -> None:
    connection = connect()
    connection.sendall(b"GET / HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionError):
        for number in range(100):
            connection.sendall(b"x%d: %s\r\n" % (number, b"y" * 1000))
    assert received(connection)[:12] in (b"HTTP/1.1 431", b""), "b'' if what is still under way resets the connection"


def test_beyond_the_limit_the_connection_that_waits_longest_gives_way(
    connect: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "REQUEST_SECONDS", 5)
    idle = []
    for _ in range(3):
        idle.append(connect())
        time.sleep(0.05)  # the event loop's clock stands still while it accepts several connections at once
    busy = connect()
    busy.sendall(REQUEST)
    assert busy.recv(1000).endswith(b"00000")
    assert received(idle[0]) == b""


def test_if_all_connections_are_served_a_new_one_is_refused(connect: object) -> None:
    busy = [connect() for _ in range(3)]
    for connection in busy:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    time.sleep(0.15)
    assert received(connect()).startswith(b"HTTP/1.1 503")
    assert all(connection.recv(1000).endswith(b"00000") for connection in busy)
