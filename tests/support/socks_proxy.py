"""A SOCKS5 proxy without authentication that passes every connection on to one server (RFC 1928)."""

from __future__ import annotations

import shutil
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_WR, create_connection

_NAME = 3  # the address is a host name, which the proxy resolves


@contextmanager
def socks_proxy(target: tuple[str, int]) -> Iterator[tuple[int, list[str]]]:
    """Run a proxy, and yield its port and the names of the hosts that clients ask for."""
    asked: list[str] = []

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            _, methods = self.rfile.read(2)
            self.rfile.read(methods)
            self.wfile.write(b"\x05\x00")
            *_, kind, length = self.rfile.read(5)
            assert kind == _NAME, "the name was resolved before"
            asked.append(self.rfile.read(length).decode())
            self.rfile.read(2)
            with create_connection(target) as server, server.makefile("rwb", buffering=0) as stream:
                self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
                threading.Thread(target=shutil.copyfileobj, args=(stream, self.wfile), daemon=True).start()
                with suppress(OSError):
                    while data := self.connection.recv(65_536):
                        stream.write(data)
                    server.shutdown(SHUT_WR)

    class Proxy(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Proxy(("127.0.0.1", 0), Connection) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield proxy.server_address[1], asked
        proxy.shutdown()
