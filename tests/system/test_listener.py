"""The socket on which the server listens."""

from __future__ import annotations

import socket

import pytest

from modules.core.errors import PortTaken
from modules.system.listener import listening_socket


def test_a_port_is_used_once(free_port: int) -> None:
    with listening_socket("127.0.0.1", free_port) as listener:
        assert listener.getsockname()[:2] == ("127.0.0.1", free_port)
        with pytest.raises(PortTaken, match=str(free_port)):
            listening_socket("127.0.0.1", free_port)
        socket.create_connection(("127.0.0.1", free_port)).close()
    listening_socket("127.0.0.1", free_port).close()
