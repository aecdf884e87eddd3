"""Ask an RPC node of llama.cpp for its version and its memory, by a plain socket with limits.

A node serves one client at a time, and a second one waits for ever for an answer: llama.cpp itself sets no limit. So a
node is asked here before a load, and the connection is closed again. Source: ggml-rpc.cpp and transport.cpp of the
llama.cpp in llama-cpp-python 0.3.36; IPv4 only, as there.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from modules.core.errors import Words
from modules.core.rpc_errors import NodeError, NodeHungUp, NodeIncompatible, NodeInUse, NodeTwice, NodeUnreachable

PROTOCOL = (7, 0)
"""Major version, which must be equal, and minor version, which a node must not exceed."""
ANSWER_SECONDS = 3.0
MAX_DEVICES = 16
"""Devices of all nodes together, GGML_RPC_MAX_SERVERS."""

_HELLO, _DEVICE_COUNT, _DEVICE_MEMORY = 14, 15, 11  # commands
_CAPABILITIES = bytes(24)  # of the connection: none
_NO_ANSWER: Words = {"en": "no answer", "zh": "没有应答"}
_UNRESOLVED: Words = {"en": "its name is not resolved", "zh": "无法解析其名称"}


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of one device of a node, in bytes, as it said when it was asked."""

    free: int
    total: int


@dataclass(frozen=True)
class NodeFacts:
    """The version and the memory of a node, as it reports them, and the address and port to which its name leads."""

    version: str
    devices: tuple[DeviceMemory, ...]
    address: tuple[str, int] | None = field(default=None, compare=False)


def split_address(address: str) -> tuple[str, int]:
    """Return the host and the port of "host:port"."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def ask(node: str, seconds: float = ANSWER_SECONDS) -> NodeFacts:
    """Return what the node at "host:port" says of itself, within `seconds` once its name is resolved.

    Raises NodeUnreachable, NodeInUse, NodeHungUp or NodeIncompatible.
    """
    until = time.monotonic() + seconds
    with contextlib.closing(_connected(node, seconds)) as connection:
        try:
            return _questions(_Client(node, connection, until), connection.getpeername())
        except TimeoutError:
            raise NodeInUse(node) from None
        except ConnectionError as error:
            raise NodeHungUp(node) from error
        except OSError as error:
            raise NodeUnreachable(node, _words(error)) from error


def ask_all(nodes: Iterable[str], seconds: float = ANSWER_SECONDS) -> dict[str, NodeFacts | NodeError]:
    """Ask all nodes at once. Return what each of them says of itself, or why it cannot be used."""
    answers: dict[str, NodeFacts | NodeError] = {}

    def note(node: str) -> None:
        try:
            answers[node] = ask(node, seconds)
        except NodeError as error:
            answers[node] = error

    threads = {node: threading.Thread(target=note, args=(node,), daemon=True) for node in nodes}
    until = time.monotonic() + seconds + 1.0
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(until - time.monotonic(), 0))
    return {node: answers.get(node) or NodeUnreachable(node, _UNRESOLVED) for node in threads}


def usable(answers: Mapping[str, NodeFacts | NodeError]) -> dict[str, NodeFacts]:
    """Return the answers if all nodes can be used. Raises the error of the first one that cannot, or NodeTwice."""
    facts: dict[str, NodeFacts] = {}
    for node, answer in answers.items():
        if isinstance(answer, NodeError):
            raise answer
        for other, known in facts.items():
            if answer.address is not None and answer.address == known.address:
                raise NodeTwice(other, node)
        facts[node] = answer
    return facts


def _connected(node: str, seconds: float) -> socket.socket:
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    try:
        connection.connect(split_address(node))
    except (OSError, OverflowError, UnicodeError) as error:
        connection.close()
        raise NodeUnreachable(node, _NO_ANSWER if isinstance(error, TimeoutError) else _words(error)) from error
    return connection


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


class _Client:
    """A connection to a node. Raises TimeoutError when the time is up."""

    def __init__(self, node: str, connection: socket.socket, until: float) -> None:
        self.node = node
        self._connection, self._until = connection, until

    def request(self, command: int, data: bytes, size: int) -> bytes:
        """Send a command and return the `size` bytes of its answer. Raises NodeIncompatible for any other answer."""
        self._set_limit()
        self._connection.sendall(struct.pack("<BQ", command, len(data)) + data)
        if struct.unpack("<Q", self._receive(8))[0] != size:
            raise self.incompatible()
        return self._receive(size)

    def _receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            self._set_limit()
            part = self._connection.recv(size - len(received))
            if not part:
                raise NodeHungUp(self.node)
            received += part
        return received

    def _set_limit(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)

    def incompatible(self, found: str = "") -> NodeIncompatible:
        return NodeIncompatible(self.node, found, "{}.{}".format(*PROTOCOL))


def _questions(client: _Client, address: tuple[str, int]) -> NodeFacts:
    major, minor, patch = struct.unpack("<BBB", client.request(_HELLO, _CAPABILITIES, 28)[:3])
    version = f"{major}.{minor}.{patch}"
    if major != PROTOCOL[0] or minor > PROTOCOL[1]:
        raise client.incompatible(version)
    (count,) = struct.unpack("<I", client.request(_DEVICE_COUNT, b"", 4))
    if not 0 < count <= MAX_DEVICES:
        raise client.incompatible()
    answers = [client.request(_DEVICE_MEMORY, struct.pack("<I", device), 16) for device in range(count)]
    return NodeFacts(version, tuple(DeviceMemory(*struct.unpack("<QQ", answer)) for answer in answers), address)
