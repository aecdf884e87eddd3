"""HTTP connection pool whose pending connects and reads can be aborted from another thread.

A thread blocked in `requests` cannot be interrupted, but shutting down its socket ends the wait. Every connection
therefore registers its socket before it starts to connect, because connecting may block as long as reading.
"""

from __future__ import annotations

import contextlib
import functools
import http.cookiejar
import re
import socket
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from modules.core.product import PRODUCT

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0

_HEADERS = {"User-Agent": PRODUCT.replace(" ", "-"), "Accept": "*/*", "Accept-Encoding": "identity"}


class ConnectionPool:
    """Send GET requests from several threads, keeping up to `size` connections per server.

    Proxies are taken from the environment; connecting to a SOCKS proxy is not aborted. Cookies, passwords from ~/.netrc
    and redirects are ignored. `connect_seconds` limits connecting, `read_seconds` the time between two received pieces.
    """

    def __init__(
        self, size: int = 8, connect_seconds: float = CONNECT_SECONDS, read_seconds: float = READ_SECONDS
    ) -> None:
        self.lock = threading.Lock()  # guards `closed`, `connections` and the sockets of these
        self.closed = False
        self.connections: weakref.WeakSet[_AbortableConnection] = weakref.WeakSet()
        self._timeouts = (connect_seconds, read_seconds)
        self.session = _Session()
        self.session.headers.clear()
        self.session.headers.update(_HEADERS)
        self.session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _Adapter(self, size))

    def get(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Return the response with its body unread.

        Raises requests.RequestException, or an exception of urllib3 for a malformed `url`.
        """
        # Without `auth`, ~/.netrc would override the header: https://github.com/psf/requests/issues/3929
        return self.session.get(
            url, headers=dict(headers), auth=_unchanged, timeout=self._timeouts, allow_redirects=False, stream=True
        )

    def close(self) -> None:
        """Abort every pending connect and read. Thread-safe."""
        with self.lock:
            self.closed = True
            for connection in list(self.connections):
                connection.abort()
        self.session.close()


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Report no redirect: requests would read the whole body to prepare a next request that is not wanted."""


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class _AbortableConnection(HTTPConnection):
    """A connection whose socket can be shut down from another thread, also while it is connecting.

    `_connecting` is a duplicate handle of the socket during `connect`: TLS replaces the socket object.
    """

    def __init__(self, pool: ConnectionPool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._pool = pool
        self._connecting: socket.socket | None = None
        with pool.lock:
            pool.connections.add(self)

    def connect(self) -> None:
        try:
            super().connect()
        finally:
            with self._pool.lock:
                connecting, self._connecting = self._connecting, None
            if connecting is not None:
                connecting.close()

    def abort(self) -> None:
        for sock in (self._connecting, self.sock):
            if sock is not None:
                with contextlib.suppress(OSError):
                    # SSLSocket.shutdown would also remove the cipher while another thread is reading.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _new_conn(self) -> socket.socket:
        try:
            candidates = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        for number, (family, kind, protocol, _, address) in enumerate(candidates):
            try:
                return self._connect_socket(socket.socket(family, kind, protocol), address)
            except OSError as error:
                if number < len(candidates) - 1:
                    continue
                if isinstance(error, TimeoutError):
                    raise ConnectTimeoutError(self, f"{self.host} does not answer") from error
                raise NewConnectionError(self, str(error)) from error
        raise NewConnectionError(self, "the name has no address")

    def _connect_socket(self, sock: socket.socket, address: Any) -> socket.socket:
        try:
            with self._pool.lock:
                if self._pool.closed:
                    raise OSError("closed")
                if self._connecting is not None:
                    self._connecting.close()
                self._connecting = sock.dup()
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            if isinstance(self.timeout, (int, float)):
                sock.settimeout(self.timeout)
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock


class _AbortableTlsConnection(_AbortableConnection, HTTPSConnection):
    """The same over TLS."""


class _Adapter(HTTPAdapter):
    def __init__(self, pool: ConnectionPool, size: int) -> None:
        self._pool = pool
        super().__init__(pool_maxsize=size, max_retries=0)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Take SOCKS without a version, as desktops set it, for version 5 with a proxy that resolves names."""
        named = re.sub("^socks:", "socks5h:", proxy, flags=re.IGNORECASE)
        return super().proxy_manager_for(named, **kwargs)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        server_pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if "_socks_options" in server_pool.conn_kw:  # only connections of its own speak to a SOCKS proxy
            socks_pool: HTTPConnectionPool = server_pool
            return socks_pool
        connection = _AbortableTlsConnection if server_pool.scheme == "https" else _AbortableConnection
        server_pool.ConnectionCls = functools.partial(connection, self._pool)
        result: HTTPConnectionPool = server_pool
        return result
