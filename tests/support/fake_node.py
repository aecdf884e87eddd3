"""An RPC node of our own, which speaks the protocol by plain sockets, to one client at a time."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence

HELLO, DEVICE_COUNT, DEVICE_MEMORY = 14, 15, 11
GIB = 1 << 30


class FakeNode:
    """A node with `devices` of (free, total) bytes. A `silent` one accepts connections and answers nothing.

    `raw` replaces all answers; `pause` are seconds before each byte of an answer.
    """

    def __init__(
        self,
        devices: Sequence[tuple[int, int]] = ((3 * GIB, 4 * GIB),),
        version: tuple[int, int, int] = (7, 0, 0),
        silent: bool = False,
        raw: bytes | None = None,
        pause: float = 0,
    ) -> None:
        self.devices, self.version, self.silent, self.raw, self.pause = devices, version, silent, raw, pause
        self.clients = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.clients += 1
                with client, contextlib.suppress(OSError):
                    self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        file = client.makefile("rb")
        while len(header := file.read(9)) == 9:
            command, size = struct.unpack("<BQ", header)
            data = file.read(size)
            if not self.silent:
                answer = self._answer_to(command, data) if self.raw is None else self.raw
                for part in [answer] if not self.pause else [bytes([byte]) for byte in answer]:
                    time.sleep(self.pause)
                    client.sendall(part)
            if self.raw is not None:
                return

    def _answer_to(self, command: int, data: bytes) -> bytes:
        if command == HELLO:
            assert len(data) == 24
            return struct.pack("<Q", 28) + bytes(self.version) + bytes(25)
        if command == DEVICE_COUNT:
            return struct.pack("<QI", 4, len(self.devices))
        assert command == DEVICE_MEMORY
        return struct.pack("<QQQ", 16, *self.devices[struct.unpack("<I", data)[0]])


@contextlib.contextmanager
def fake_node(**facts: object) -> Iterator[FakeNode]:
    node = FakeNode(**facts)
    try:
        yield node
    finally:
        node.close()


def closed_port() -> str:
    """Return an address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"
