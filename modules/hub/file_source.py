"""The files of a repository on a mirror: their bytes, as they were asked for or not at all."""

from __future__ import annotations

import contextlib
import re
import threading
import weakref
from collections.abc import Iterator
from urllib.parse import quote

import requests

from modules.hub.connections import Connections
from modules.hub.endpoints import Token, host
from modules.hub.errors import DownloadError, NotAHub, Stopped, WrongSize
from modules.hub.http import BREAKS, Client, Link, is_page
from modules.hub.repository import RemoteFile, Repository

PIECE = 256 << 10
"""Bytes of a chunk, at most."""

_EXPIRED = (401, 403, 404, 410)  # what a link to a CDN answers once its time is over
_PAGES = (".html", ".htm", ".xhtml")


class HubBody:
    """Bytes on their way; see `modules.hub.repository.Body`."""

    def __init__(
        self, client: Client, link: Link, response: requests.Response, file: RemoteFile, begin: int, end: int
    ) -> None:
        self.begin, self.end, self.total = begin, end, file.size
        self._client, self._link, self._response, self._file = client, link, response, file
        self._closed = False
        self._reading = threading.Lock()

    def chunks(self) -> Iterator[bytes]:
        left = self.end - self.begin
        try:
            while left:
                piece = self._read(min(left, PIECE))
                left -= len(piece)
                yield piece
        finally:
            self._release()

    def close(self) -> None:
        self._closed = True
        # Neither where there is nothing to wake: the connection is free again, or none of ours.
        with contextlib.suppress(ValueError, RuntimeError, OSError):
            self._response.raw.shutdown()
        self._release()

    def _release(self) -> None:
        """Unless a thread is reading, which does it itself when it comes back."""
        if self._reading.acquire(blocking=False):
            try:
                self._response.close()
            finally:
                self._reading.release()

    def _read(self, most: int) -> bytes:
        """What has come, as soon as there is any: what a slow line or one that breaks has brought is not lost."""
        with self._reading:
            if self._closed:
                raise Stopped()
            try:
                piece: bytes = self._response.raw.read1(most, decode_content=False)
            except (*BREAKS, AttributeError) as error:  # TLS that is shut down while it reads has no cipher any more
                raise self._broken(error) from error
        if not piece:
            raise self._ended()
        return piece

    def _broken(self, error: Exception) -> DownloadError:
        return Stopped() if self._closed else self._client.broken(self._link, error)

    def _ended(self) -> DownloadError:
        """Too early. Who sends in chunks has said so itself; of others it is the connection that ended."""
        got = int(self._response.raw.tell())
        if self._response.headers.get("Transfer-Encoding", "").lower() == "chunked" and not self._closed:
            return WrongSize(host(self._link.url), self._file.path, self.begin + got, self._file.size)
        return self._broken(EOFError())


class HubSource:
    """A repository at one commit on one mirror; see `modules.hub.repository.Source`."""

    def __init__(self, endpoint: str, token: Token | None, repository: Repository, connections: Connections) -> None:
        self._client = Client(endpoint, token, connections)
        self._repository = repository
        self.host = self._client.host
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._links: dict[str, Link] = {}  # by path: where the mirror has sent us for its bytes
        self._bodies: weakref.WeakSet[HubBody] = weakref.WeakSet()

    def open(self, file: RemoteFile, begin: int, end: int) -> HubBody:
        body = self._by_known_link(file, begin, end)
        if body is not None:
            return body
        with self._turn(file.path):  # the mirror is asked by one thread alone, the others use what it has learnt
            return self._by_known_link(file, begin, end) or self._afresh(file, begin, end)

    def close(self) -> None:
        self._client.connections.close()
        with self._lock:
            bodies = list(self._bodies)
        for body in bodies:
            body.close()

    def _turn(self, path: str) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(path, threading.Lock())

    def _by_known_link(self, file: RemoteFile, begin: int, end: int) -> HubBody | None:
        """None if no link is known, or it has expired."""
        link = self._links.get(file.path)
        if link is None:
            return None
        try:
            response, last = self._client.follow(link, _range(file, begin, end))
            if response.status_code not in _EXPIRED:
                return self._checked(response, last, file, begin, end)
            response.close()
        except DownloadError:
            self._forget(file.path, link)
            raise
        self._forget(file.path, link)
        return None

    def _forget(self, path: str, link: Link) -> None:
        with self._lock:
            if self._links.get(path) == link:
                del self._links[path]

    def _afresh(self, file: RemoteFile, begin: int, end: int) -> HubBody:
        own = self._client.link(f"/{self._repository.name}/resolve/{self._repository.commit}/{quote(file.path)}")
        response, last = self._client.follow(own, _range(file, begin, end))
        body = self._checked(response, last, file, begin, end)
        if last != own:
            with self._lock:
                self._links[file.path] = last
        return body

    def _checked(self, response: requests.Response, link: Link, file: RemoteFile, begin: int, end: int) -> HubBody:
        try:
            begin, end = self._extent(response, link, file, begin, end)
        except DownloadError:
            response.close()
            raise
        body = HubBody(self._client, link, response, file, begin, end)
        with self._lock:
            self._bodies.add(body)
        if self._client.connections.closed:  # just now: who closed it may not have seen this body
            body.close()
            raise Stopped()
        return body

    def _extent(
        self, response: requests.Response, link: Link, file: RemoteFile, begin: int, end: int
    ) -> tuple[int, int]:
        """Which bytes these are. DownloadError unless they are those asked for, or all there are."""
        code, name = response.status_code, host(link.url)
        if code == 416:
            there = re.fullmatch(r"bytes \*/(\d{1,18})", response.headers.get("Content-Range", ""))
            raise WrongSize(name, file.path, int(there[1]), file.size) if there else NotAHub(name, "HTTP 416")
        if code not in (200, 206):
            raise self._client.fault(response, link, self._repository.name, file.path)
        if is_page(response) and not file.path.lower().endswith(_PAGES):
            raise NotAHub(name, f"a web page instead of {file.path}")
        coding = response.headers.get("Content-Encoding", "identity")
        if coding != "identity":
            raise NotAHub(name, f"{file.path} comes compressed, as {coding[:20]}")
        if code == 200:
            begin, end = 0, file.size
        else:
            _match(response.headers.get("Content-Range", ""), name, file, begin, end)
        length = response.headers.get("Content-Length", "")  # missing on some mirrors
        if length.isdecimal() and int(length) != end - begin:
            raise WrongSize(name, file.path, int(length), end - begin)
        return begin, end


def _range(file: RemoteFile, begin: int, end: int) -> dict[str, str]:
    """The header that asks for these bytes; none for the whole file, which every server can send."""
    return {} if (begin, end) == (0, file.size) else {"Range": f"bytes={begin}-{end - 1}"}


def _match(said: str, name: str, file: RemoteFile, begin: int, end: int) -> None:
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", said.strip())
    if not found or (int(found[1]), int(found[2])) != (begin, end - 1):
        raise NotAHub(name, f"bytes {begin}-{end - 1} of {file.path} were asked for, {said[:60]!r} were sent")
    if int(found[3]) != file.size:
        raise WrongSize(name, file.path, int(found[3]), file.size)
