"""File contents of a repository on a mirror: exactly the bytes requested, or an error."""

from __future__ import annotations

import contextlib
import re
import threading
import weakref
from collections.abc import Iterator
from urllib.parse import quote

import requests

from modules.core.quotes import in_quotes
from modules.hub.access_token import AccessToken
from modules.hub.connections import ConnectionPool
from modules.hub.endpoint_url import host_of
from modules.hub.errors import DownloadError, NotAHub, RevisionNotFound, Stopped, WrongSize
from modules.hub.http import CONNECTION_ERRORS, HttpClient, Link, is_web_page
from modules.hub.repository import RemoteFile, Repository

MAX_CHUNK = 256 << 10  # bytes

_EXPIRED = (401, 403, 404, 410)  # what a CDN answers once a link has expired
_WEB_PAGE_SUFFIXES = (".html", ".htm", ".xhtml")


class HubBody:
    """Implements `modules.hub.repository.Body` over one HTTP response."""

    def __init__(
        self, client: HttpClient, link: Link, response: requests.Response, file: RemoteFile, begin: int, end: int
    ) -> None:
        self.begin, self.end, self.total = begin, end, file.size
        self._client, self._link, self._response, self._file = client, link, response, file
        self._closed = False
        self._reading = threading.Lock()

    def chunks(self) -> Iterator[bytes]:
        remaining = self.end - self.begin
        try:
            while remaining:
                chunk = self._read(min(remaining, MAX_CHUNK))
                remaining -= len(chunk)
                yield chunk
        finally:
            self._release()

    def close(self) -> None:
        self._closed = True
        # It fails where nothing can be woken: the connection is back in the pool, or is not ours.
        with contextlib.suppress(ValueError, RuntimeError, OSError):
            self._response.raw.shutdown()
        self._release()

    def _release(self) -> None:
        """Close the response, unless a thread is reading from it, which will do so itself."""
        if self._reading.acquire(blocking=False):
            try:
                self._response.close()
            finally:
                self._reading.release()

    def _read(self, max_bytes: int) -> bytes:
        """Return what has arrived as soon as there is any, so that a slow or breaking connection loses nothing."""
        with self._reading:
            if self._closed:
                raise Stopped()
            try:
                chunk: bytes = self._response.raw.read1(max_bytes, decode_content=False)
            except (*CONNECTION_ERRORS, AttributeError) as error:  # TLS shut down while reading has lost its cipher
                raise self._failure(error) from error
        if not chunk:
            raise self._premature_end()
        return chunk

    def _failure(self, error: Exception) -> DownloadError:
        return Stopped() if self._closed else self._client.connection_failure(self._link, error)

    def _premature_end(self) -> DownloadError:
        """Return the error for a body that is too short.

        With chunked encoding the server has declared the end; otherwise the connection broke.
        """
        received = int(self._response.raw.tell())
        if self._response.headers.get("Transfer-Encoding", "").lower() == "chunked" and not self._closed:
            return WrongSize(host_of(self._link.url), self._file.path, self.begin + received, self._file.size)
        return self._failure(EOFError())


class HubFileSource:
    """Implements `modules.hub.repository.FileSource` for one mirror. Thread-safe."""

    def __init__(
        self, endpoint: str, token: AccessToken | None, repository: Repository, connections: ConnectionPool
    ) -> None:
        self._client = HttpClient(endpoint, token, connections)
        self._repository = repository
        self.host = self._client.host
        self._lock = threading.Lock()  # guards the following
        self._resolving: dict[str, threading.Lock] = {}  # by path
        self._cdn_links: dict[str, Link] = {}  # by path: where the mirror has redirected to
        self._bodies: weakref.WeakSet[HubBody] = weakref.WeakSet()

    def open(self, file: RemoteFile, begin: int, end: int) -> HubBody:
        body = self._open_cdn_link(file, begin, end)
        if body is not None:
            return body
        # One thread alone asks the mirror for the link; the others wait and use it.
        with self._resolving_lock(file.path):
            return self._open_cdn_link(file, begin, end) or self._open_resolved(file, begin, end)

    def close(self) -> None:
        self._client.connections.close()
        with self._lock:
            bodies = list(self._bodies)
        for body in bodies:
            body.close()

    def _resolving_lock(self, path: str) -> threading.Lock:
        with self._lock:
            return self._resolving.setdefault(path, threading.Lock())

    def _open_cdn_link(self, file: RemoteFile, begin: int, end: int) -> HubBody | None:
        """Request the bytes from the cached link; None if there is none or it has expired."""
        link = self._cdn_links.get(file.path)
        if link is None:
            return None
        try:
            response, last = self._client.follow(link, _range_header(file, begin, end))
            if response.status_code not in _EXPIRED:
                return self._checked_body(response, last, file, begin, end)
            response.close()
        except DownloadError:
            self._forget_link(file.path, link)
            raise
        self._forget_link(file.path, link)
        return None

    def _forget_link(self, path: str, link: Link) -> None:
        with self._lock:
            if self._cdn_links.get(path) == link:
                del self._cdn_links[path]

    def _open_resolved(self, file: RemoteFile, begin: int, end: int) -> HubBody:
        """Request the bytes from the mirror, and cache the link that it redirects to."""
        link = self._client.link(f"/{self._repository.name}/resolve/{self._repository.commit}/{quote(file.path)}")
        response, last = self._client.follow(link, _range_header(file, begin, end))
        body = self._checked_body(response, last, file, begin, end)
        if last != link:
            with self._lock:
                self._cdn_links[file.path] = last
        return body

    def _checked_body(self, response: requests.Response, link: Link, file: RemoteFile, begin: int, end: int) -> HubBody:
        try:
            begin, end = self._check_extent(response, link, file, begin, end)
        except DownloadError:
            response.close()
            raise
        body = HubBody(self._client, link, response, file, begin, end)
        with self._lock:
            self._bodies.add(body)
        if self._client.connections.closed:  # closed meanwhile, perhaps before this body was registered
            body.close()
            raise Stopped()
        return body

    def _check_extent(
        self, response: requests.Response, link: Link, file: RemoteFile, begin: int, end: int
    ) -> tuple[int, int]:
        """Return which bytes the response contains: those requested, or the whole file. Raises DownloadError."""
        code, host = response.status_code, host_of(link.url)
        if code == 416:
            total = re.fullmatch(r"bytes \*/(\d{1,18})", response.headers.get("Content-Range", ""))
            raise WrongSize(host, file.path, int(total[1]), file.size) if total else NotAHub(host, "HTTP 416")
        if code not in (200, 206):
            error = self._client.error_for(response, link, self._repository.name, file.path)
            if isinstance(error, RevisionNotFound):  # deleted since the list was read
                error = RevisionNotFound(self._repository.name, self._repository.commit, ())
            raise error
        if is_web_page(response) and not file.path.lower().endswith(_WEB_PAGE_SUFFIXES):
            detail = {"en": f"a web page instead of {file.path}", "zh": f"返回的是网页，而非 {file.path}"}
            raise NotAHub(host, detail)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            encoding = encoding[:20]
            detail = {
                "en": f"{file.path} is sent compressed ({encoding})",
                "zh": f"{file.path} 被压缩传输（{encoding}）",
            }
            raise NotAHub(host, detail)
        if code == 200:
            begin, end = 0, file.size
        else:
            _check_content_range(response.headers.get("Content-Range", ""), host, file, begin, end)
        length = response.headers.get("Content-Length", "")  # some mirrors omit it
        if length.isdecimal() and int(length) != end - begin:
            raise WrongSize(host, file.path, int(length), end - begin)
        return begin, end


def _range_header(file: RemoteFile, begin: int, end: int) -> dict[str, str]:
    """Return the Range header for these bytes; none for the whole file, which every server can send."""
    return {} if (begin, end) == (0, file.size) else {"Range": f"bytes={begin}-{end - 1}"}


def _check_content_range(header: str, host: str, file: RemoteFile, begin: int, end: int) -> None:
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", header.strip())
    if not match or (int(match[1]), int(match[2])) != (begin, end - 1):
        wanted, got = f"{begin}-{end - 1}", header[:60]
        raise NotAHub(
            host,
            {
                "en": f"bytes {wanted} of {file.path} were requested, {got!r} were sent",
                "zh": f"请求的是 {file.path} 的第 {wanted} 字节，返回的却是{in_quotes(got)}",
            },
        )
    if int(match[3]) != file.size:
        raise WrongSize(host, file.path, int(match[3]), file.size)
