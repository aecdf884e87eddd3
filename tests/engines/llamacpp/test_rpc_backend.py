"""Connections of the RPC backend: the system ends those to machines that are gone, as llama.cpp does not."""

from __future__ import annotations

import os
import socket

from modules.engines.llamacpp import rpc_backend
from tests.support.echo_plans import wait_until
from tests.support.fake_node import fake_node


def is_watched(connection: socket.socket) -> bool:
    return bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))


def test_connections_to_nodes_are_probed_and_others_are_left_alone() -> None:
    with fake_node() as node, fake_node() as other:
        ports = [int(one.address.rpartition(":")[2]) for one in (node, other)]
        to_node, to_other = (socket.create_connection(("127.0.0.1", port)) for port in ports)
        with to_node, to_other:
            wait_until(lambda: node.clients and other.clients)
            opened = set(os.listdir("/proc/self/fd"))
            rpc_backend.notice_lost_nodes([node.address])
            assert is_watched(to_node) and not is_watched(to_other)
            assert to_node.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 40_000
            assert set(os.listdir("/proc/self/fd")) == opened, "no copy of a descriptor is left"
            to_node.sendall(b"\x0e")  # it is still open


def test_a_node_passes_the_setting_on_to_its_clients() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert rpc_backend.notice_lost_clients(port)
        with socket.create_connection(("127.0.0.1", port)) as client, listener.accept()[0] as accepted:
            assert is_watched(accepted) and not is_watched(client)
    assert not rpc_backend.notice_lost_clients(port), "it does not listen any more, or not yet"
