"""The socket on which the server listens."""

from __future__ import annotations

import os
import socket

from modules.core.errors import PortTaken


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket, which uvicorn takes over. Raises PortTaken if another program uses the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise PortTaken(host, port) from error
    return listener
