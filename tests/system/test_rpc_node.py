"""Questions to RPC nodes: what a node says, and what is said of one that cannot be used."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

import pytest

from modules.core.errors import LANGUAGES
from modules.core.rpc_errors import NodeError, NodeHungUp, NodeIncompatible, NodeInUse, NodeTwice, NodeUnreachable
from modules.system.rpc_node import DeviceMemory, NodeFacts, ask, ask_all, usable
from tests.support.fake_node import GIB, closed_port, fake_node

LIMIT = 0.2


def test_a_node_tells_its_version_and_the_memory_of_each_device() -> None:
    with fake_node(devices=((1 * GIB, 2 * GIB), (3 * GIB, 3 * GIB))) as node:
        assert ask(node.address) == NodeFacts("7.0.0", (DeviceMemory(GIB, 2 * GIB), DeviceMemory(3 * GIB, 3 * GIB)))
        assert ask(node.address).version == "7.0.0", "the first question has left the node free for the next client"
    with fake_node(pause=0.0005) as slow:
        assert len(ask(slow.address).devices) == 1, "an answer may come byte by byte"


def test_a_node_that_does_not_answer_is_in_use_and_the_question_ends_in_time() -> None:
    with fake_node(silent=True) as silent, fake_node(pause=0.05) as dripping, fake_node() as node:
        began = time.monotonic()
        answers = ask_all([silent.address, node.address, dripping.address, closed_port()], LIMIT)
        assert time.monotonic() - began < 5 * LIMIT, "all are asked at once"
        assert [type(answer) for answer in answers.values()] == [NodeInUse, NodeFacts, NodeInUse, NodeUnreachable]
        with pytest.raises(NodeInUse, match="one client at a time"):
            usable(answers)
        assert list(usable({node.address: answers[node.address]})) == [node.address]


def test_another_version_and_another_program_are_told_apart(subtests: pytest.Subtests) -> None:
    found = {
        "newer": ({"version": (8, 0, 0)}, "protocol 8.0.0"),
        "newer minor version": ({"version": (7, 1, 0)}, "protocol 7.1.0"),
        "HTTP": ({"raw": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, "does not answer"),
        "end of an answer": ({"raw": struct.pack("<QB", 28, 7)}, "closes the connection"),
        "end of the connection": ({"raw": b""}, "closes the connection"),
        "endless answer": ({"raw": struct.pack("<Q", 1 << 63)}, "does not answer"),
        "no devices": ({"devices": ()}, "does not answer"),
        "a thousand devices": ({"devices": ((1, 1),) * 1000}, "does not answer"),
    }
    for name, (facts, words) in found.items():
        with subtests.test(name), fake_node(**facts) as node, pytest.raises(NodeError, match=words) as error:
            ask(node.address)
        assert isinstance(error.value, NodeHungUp if "closes" in words else NodeIncompatible)


def test_an_unreachable_node_is_named_in_both_languages() -> None:
    closed = closed_port()
    for node, reason in ((closed, "refused"), ("no host:1", ""), ("x" * 70 + ".invalid:1", "")):
        with pytest.raises(NodeUnreachable) as error:
            ask(node, LIMIT)
        assert all(node in error.value.say(language) for language in LANGUAGES) and reason in str(error.value)
    assert isinstance(error.value, NodeError) and error.value.status == 502


def test_a_machine_that_does_not_answer_at_all_is_named_in_both_languages() -> None:
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        sockets.enter_context(socket.create_connection(full.getsockname()))  # which nobody accepts
        with pytest.raises(NodeUnreachable) as error:
            ask(f"127.0.0.1:{full.getsockname()[1]}", LIMIT)
    assert ": no answer." in error.value.say("en") and "：没有应答。" in error.value.say("zh")


def test_a_node_that_resets_the_connection_has_hung_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def reset() -> None:
            client, _ = listener.accept()
            client.recv(1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()

        thread = threading.Thread(target=reset)
        thread.start()
        with pytest.raises(NodeHungUp, match="closes the connection"):
            ask(address, 2)
        thread.join()


def test_a_node_under_two_names_is_refused() -> None:
    with fake_node() as node, fake_node() as other:
        alias = node.address.replace("127.0.0.1", "localhost")
        assert list(usable(ask_all([node.address, other.address]))) == [node.address, other.address]
        with pytest.raises(NodeTwice) as error:
            usable(ask_all([node.address, other.address, alias]))
    assert error.value.say("en").startswith(f"{node.address} and {alias} are the same RPC node.")
    assert "同一个 RPC 节点" in error.value.say("zh")
