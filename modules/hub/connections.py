"""Connections to web servers that can be let go of from another thread, whatever they are waiting for.

A thread that waits in `requests` cannot be told to stop. Its socket can: once that is shut down, the wait is over. So
each connection makes its socket known before it begins to connect, which may take as long as the rest.
"""

from __future__ import annotations

import contextlib
import functools
import http.cookiejar
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


class Connections:
    """GET requests, by several threads at once, over up to `size` kept connections to each server.

    Proxies are the environment's. No cookie is kept, no password taken from ~/.netrc, no redirect followed.
    `connect_seconds` and `read_seconds` are how long a server may take to be reached, and between two bytes.
    """

    def __init__(
        self, size: int = 8, connect_seconds: float = CONNECT_SECONDS, read_seconds: float = READ_SECONDS
    ) -> None:
        self.lock = threading.Lock()
        self.closed = False
        self.made: weakref.WeakSet[_Watched] = weakref.WeakSet()
        self._timeouts = (connect_seconds, read_seconds)
        self.session = _Session()
        self.session.headers.clear()
        self.session.headers.update(_HEADERS)
        self.session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _Adapter(self, size))

    def get(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """The answer, its body still on the way. requests.RequestException; others of urllib3 for a bad `url`."""
        # Without `auth`, ~/.netrc would override the header: https://github.com/psf/requests/issues/3929
        return self.session.get(
            url, headers=dict(headers), auth=_as_it_is, timeout=self._timeouts, allow_redirects=False, stream=True
        )

    def close(self) -> None:
        """From any thread: what waits for a server fails at once."""
        with self.lock:
            self.closed = True
            made = list(self.made)
            for connection in made:
                connection.wake()
        self.session.close()


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Else it would prepare the next request even though nobody asked for it, and read the whole body before."""


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class _Watched(HTTPConnection):
    """`early` is a second handle of the socket while it is being connected: TLS puts another object in its place."""

    def __init__(self, owner: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._owner = owner
        self._early: socket.socket | None = None
        with owner.lock:
            owner.made.add(self)

    def connect(self) -> None:
        try:
            super().connect()
        finally:
            with self._owner.lock:
                early, self._early = self._early, None
            if early is not None:
                early.close()

    def wake(self) -> None:
        for each in (self._early, self.sock):
            if each is not None:
                with contextlib.suppress(OSError):
                    # That of SSLSocket also takes the cipher away, under the hands of the thread that is reading.
                    socket.socket.shutdown(each, socket.SHUT_RDWR)

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        for number, (family, kind, protocol, _, address) in enumerate(found):
            try:
                return self._connected(socket.socket(family, kind, protocol), address)
            except OSError as error:
                if number < len(found) - 1:
                    continue
                if isinstance(error, TimeoutError):
                    raise ConnectTimeoutError(self, f"{self.host} does not answer") from error
                raise NewConnectionError(self, str(error)) from error
        raise NewConnectionError(self, "it has no address")

    def _connected(self, sock: socket.socket, address: Any) -> socket.socket:
        try:
            with self._owner.lock:
                if self._owner.closed:
                    raise OSError("closed")
                if self._early is not None:
                    self._early.close()
                self._early = sock.dup()
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            if isinstance(self.timeout, (int, float)):
                sock.settimeout(self.timeout)
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock


class _WatchedTls(_Watched, HTTPSConnection):
    """The same over TLS."""


class _Adapter(HTTPAdapter):
    def __init__(self, owner: Connections, size: int) -> None:
        self._owner = owner
        super().__init__(pool_maxsize=size, max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        kind = _WatchedTls if pool.scheme == "https" else _Watched
        pool.ConnectionCls = functools.partial(kind, self._owner)
        found: HTTPConnectionPool = pool
        return found
