"""A small Hugging Face hub on localhost with repositories, a CDN on another port, and injected faults.

    with HubServer() as hub:
        hub.add("user/model", {"config.json": b"{}", "model.safetensors": Path("big")}, lfs_above=10_000)
        hub.fault("model.safetensors", origin="cdn", times=1, drop_after=200_000)
        ... hub.url ... hub.log ... hub.sent

The kernel sends large files directly from disk, so that a benchmark measures the client.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

Content = bytes | Path

SLICE = 1 << 18
"""Bytes handed to the kernel at once. They then count as sent."""


@dataclass(frozen=True)
class Entry:
    """A file of a repository. Large ones have a `sha256`, and `git_oid` is then that of their LFS pointer."""

    content: Content
    size: int
    git_oid: str
    sha256: str = ""

    def json(self, path: str) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "oid": self.git_oid, "size": self.size, "path": path}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(_pointer(self.sha256, self.size))}
        return entry


@dataclass
class Repo:
    """A repository. `commits` are keyed by their 40 digits; `branches` name some of them."""

    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    downloads: int = 0
    likes: int = 0
    gguf: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Request:
    """A received request. `path` includes the query; `connection` is the client's port."""

    origin: str
    method: str
    path: str
    range: str
    authorization: str
    connection: int
    headers: Mapping[str, str]


@dataclass
class Fault:
    """A fault of requests whose path and query contain the regular expression `pattern`. The first match applies.

    The first `skip` such requests succeed, then `times` of them fail, or all. `*_after` count bytes of one response's
    body; `corrupt` is an offset in the file. In `headers`, None removes a header. `stall_after` pauses for
    `stall_seconds` or until the client has gone. `body` replaces the response; `length` is a false Content-Length.
    """

    pattern: str
    origin: str = ""
    method: str = ""
    skip: int = 0
    times: int | None = None
    status: int = 0
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    redirect: str = ""
    delay: float = 0
    drop_after: int | None = None
    reset_after: int | None = None
    stall_after: int | None = None
    stall_seconds: float = 3600
    rate: float = 0
    corrupt: int | None = None
    ignore_range: bool = False
    length: int | None = None
    chunked: bool = False
    match_count: int = 0

    def strikes(self, request: Request) -> bool:
        """Count a matching request, and return whether it fails."""
        fits = self.origin in ("", request.origin) and self.method in ("", request.method)
        if not fits or not re.search(self.pattern, request.path):
            return False
        self.match_count += 1
        return self.match_count > self.skip and (self.times is None or self.match_count <= self.skip + self.times)


class HubServer:
    """The server. `url` is the endpoint, `cdn` the other origin; `sent` counts the bytes of all response bodies.

    `token` grants access to private and gated repositories. Links to the CDN are valid for `link_seconds`. A page of a
    file list has `page` entries; the link to the next page names `next_origin`.
    """

    def __init__(self, token: str = "", link_seconds: float = 3600, page: int = 1000, prefix: str = "") -> None:
        self.token, self.link_seconds, self.page, self.prefix = token, link_seconds, page, prefix
        self.repos: dict[str, Repo] = {}
        self.searchable = True
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.sent = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self.links: dict[str, tuple[Entry, float]] = {}
        self.numbers = itertools.count(1)
        self._servers = [_Server(("127.0.0.1", 0), partial(_Handler, self, name)) for name in ("hub", "cdn")]
        hub, cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        self.origin, self.cdn = hub, cdn
        self.url = self.next_origin = hub + prefix

    def __enter__(self) -> HubServer:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        with self.lock:
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def add(
        self,
        name: str,
        files: Mapping[str, Content],
        revision: str = "main",
        lfs_above: int = 10_000,
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Add a commit with these files as the head of `revision`, and return its 40 digits."""
        entries = {path: _entry(content, lfs_above) for path, content in files.items()}
        listing = "".join(f"{path} {entry.git_oid}\n" for path, entry in entries.items())
        commit = hashlib.sha1(f"{name} {revision}\n{listing}".encode()).hexdigest()
        repo = self.repos.setdefault(name, Repo())
        repo.private, repo.gated = private, gated
        repo.commits[commit] = entries
        repo.branches[revision] = commit
        return commit

    def fault(self, pattern: str, **behavior: object) -> Fault:
        """Add a fault, with the fields of Fault. It can be removed from `faults` again."""
        fault = Fault(pattern, **behavior)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def expire_links(self) -> None:
        """Invalidate all links to the CDN: they answer 403."""
        with self.lock:
            self.links.clear()

    def link(self, entry: Entry, path: str) -> str:
        """Return a new link to the CDN."""
        with self.lock:
            key = f"{next(self.numbers):06}"
            self.links[key] = (entry, time.monotonic() + self.link_seconds)
        return f"{self.cdn}/{key}/{entry.sha256}/{quote(path)}?X-Amz-Expires={self.link_seconds:.0f}&sig={key}"

    def count(self, sent: int) -> None:
        with self.lock:
            self.sent += sent

    def requests(self, pattern: str = "", origin: str = "") -> list[Request]:
        """Return the logged requests whose path matches `pattern`."""
        return [request for request in self.log if re.search(pattern, request.path) and origin in ("", request.origin)]


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that have disconnected."""


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, hub: HubServer, origin: str, *args: object) -> None:
        self.hub, self.origin = hub, origin
        super().__init__(*args)  # type: ignore[arg-type]

    def setup(self) -> None:
        super().setup()
        with self.hub.lock:
            self.hub.connections.add(self.connection)

    def finish(self) -> None:
        with self.hub.lock:
            self.hub.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: object) -> None:
        """Log nothing, because the hub keeps its own log."""

    def do_GET(self) -> None:
        self.fault = self._admit()
        self.hub.closing.wait(self.fault.delay)
        fault = self.fault
        if fault.redirect:
            self._respond(fault.status or 302, b"", {"Location": fault.redirect})
        elif fault.body is not None or fault.status:
            kind = "text/html" if (fault.body or b"").lstrip().startswith(b"<") else "application/json"
            self._respond(fault.status or 200, fault.body or b'{"error":"at fault"}', {"Content-Type": kind})
        else:
            self._route()

    do_HEAD = do_POST = do_GET

    def _admit(self) -> Fault:
        """Log the request and return its fault, or an empty one."""
        request = Request(
            origin=self.origin,
            method=self.command,
            path=self.path,
            range=self.headers.get("Range", ""),
            authorization=self.headers.get("Authorization", ""),
            connection=self.client_address[1],
            headers=dict(self.headers.items()),
        )
        with self.hub.lock:
            self.hub.log.append(request)
            return next((fault for fault in self.hub.faults if fault.strikes(request)), Fault(""))

    def _route(self) -> None:
        url = urlsplit(self.path)
        try:
            if self.origin == "cdn":
                self._cdn(url.path.split("/"))
                return
            if not url.path.startswith(self.hub.prefix + "/"):
                raise _Refused(404, "", "not found")
            parts = [unquote(part) for part in url.path.removeprefix(self.hub.prefix).split("/")[1:]]
            query = {key: values[-1] for key, values in parse_qs(url.query).items()}
            if parts[0] == "api":
                self._json(self._api(parts[1:], query))
            elif len(parts) >= 5 and parts[2] == "resolve":
                self._resolve(f"{parts[0]}/{parts[1]}", parts[3], "/".join(parts[4:]))
            else:
                raise _Refused(404, "", "not found")
        except _Refused as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)} if refusal.code else {}
            body = json.dumps({"error": str(refusal)}).encode()
            self._respond(refusal.status, body, {"Content-Type": "application/json", **headers})

    # -- the API ----------------------------------------------------------------------------------------------------

    def _api(self, parts: list[str], query: Mapping[str, str]) -> object:
        if parts == ["whoami-v2"]:
            if not self._is_authorized():
                raise _Refused(401, "", "Invalid credentials")
            return {"type": "user", "name": "somebody"}
        if parts == ["models"] and self.hub.searchable:
            return self._search(query)
        if len(parts) < 3 or parts[0] != "models":
            raise _Refused(404, "", "not found")
        name, (resource, revision, *path) = f"{parts[1]}/{parts[2]}", [*parts[3:], "", ""][: max(2, len(parts) - 3)]
        repo = self._repo(name)
        responses: dict[str, Callable[[], object]] = {
            "": lambda: self._info(name, repo, "main", query),
            "revision": lambda: self._info(name, repo, revision, query),
            "refs": lambda: self._refs(repo),
            "tree": lambda: self._tree(name, repo, revision, "/".join(path), query),
            "paths-info": lambda: self._paths_info(repo, revision),
        }
        if resource not in responses:
            raise _Refused(404, "", "not found")
        return responses[resource]()

    def _search(self, query: Mapping[str, str]) -> object:
        words = query.get("search", "").lower().split()
        found = [
            (name, repo)
            for name, repo in self.hub.repos.items()
            if not repo.private and all(word in name.lower() for word in words)
            if query.get("filter") != "gguf"
            or any(path.endswith(".gguf") for path in repo.commits[repo.branches["main"]])
        ]
        found.sort(key=lambda item: -item[1].downloads)
        return [
            {
                "id": name,
                "downloads": repo.downloads,
                "likes": repo.likes,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "gated": "manual" if repo.gated else False,
                **({"gguf": repo.gguf} if repo.gguf else {}),
            }
            for name, repo in found[: int(query.get("limit", 1000))]
        ]

    def _is_authorized(self) -> bool:
        return bool(self.hub.token) and self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _repo(self, name: str) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._is_authorized()):
            raise _Refused(404 if self._is_authorized() else 401, "RepoNotFound", "Repository not found")
        return repo

    def _commit(self, repo: Repo, revision: str) -> tuple[str, dict[str, Entry]]:
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repo.commits[commit]

    def _info(self, name: str, repo: Repo, revision: str, query: Mapping[str, str]) -> object:
        commit, entries = self._commit(repo, revision)
        siblings: list[dict[str, object]] = [{"rfilename": path} for path in entries]
        if "blobs" in query:
            for entry, sibling in zip(entries.values(), siblings, strict=True):
                sibling |= {"size": entry.size, "blobId": entry.git_oid}
                if entry.sha256:
                    pointer = len(_pointer(entry.sha256, entry.size))
                    sibling["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": pointer}
        state: dict[str, object] = {
            "private": repo.private,
            "gated": repo.gated,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        dates = {"createdAt": "2026-01-01T00:00:00.000Z", "lastModified": "2026-01-01T00:00:00.000Z"}
        return {"id": name, "modelId": name, "sha": commit, "siblings": siblings, **state, **dates}

    def _refs(self, repo: Repo) -> object:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in repo.branches.items()
            if not name.startswith("refs/")
        ]
        return {"branches": branches, "converts": [], "tags": []}

    def _tree(self, name: str, repo: Repo, revision: str, folder: str, query: Mapping[str, str]) -> object:
        listed = _listing(self._commit(repo, revision)[1], folder, query.get("recursive", "").lower() == "true")
        start, page = int(query.get("cursor", 0)), self.hub.page
        if start + page < len(listed):
            path = f"/api/models/{name}/tree/{quote(revision, safe='')}" + (f"/{quote(folder)}" if folder else "")
            recursive = query.get("recursive", "false")
            url = f"{self.hub.next_origin}{path}?recursive={recursive}&cursor={start + page}"
            self.link = f'<{url}>; rel="next"'
        return listed[start : start + page]

    def _paths_info(self, repo: Repo, revision: str) -> object:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(body)["paths"] if is_json else parse_qs(body).get("paths", [])
        _, entries = self._commit(repo, revision)
        return [entries[path].json(path) for path in paths if path in entries]

    def _json(self, value: object) -> None:
        link = {"Link": self.__dict__.pop("link")} if "link" in self.__dict__ else {}
        self._respond(200, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8", **link})

    # -- files ------------------------------------------------------------------------------------------------------

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._repo(name)
        if repo.gated and not self._is_authorized():
            raise _Refused(401, "GatedRepo", f"Access to model {name} is restricted.")
        commit, entries = self._commit(repo, revision)
        if path not in entries:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        entry, headers = entries[path], {"X-Repo-Commit": commit}
        if entry.sha256:
            linked = {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size), "ETag": '"own"'}
            self._respond(302, b"", {"Location": self.hub.link(entry, path), **headers, **linked})
        else:
            self._send(entry, {"ETag": f'"{entry.git_oid}"', **headers})

    def _cdn(self, parts: list[str]) -> None:
        entry, until = self.hub.links.get(parts[1] if len(parts) > 1 else "", (None, 0.0))
        if entry is None or time.monotonic() > until:
            raise _Refused(403, "", "Request has expired")
        self._send(entry, {"ETag": f'"{entry.sha256}"'})

    def _send(self, entry: Entry, headers: dict[str, str]) -> None:
        """Send the file, or the requested range of it."""
        begin, end, status = 0, entry.size, 200
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if match and not self.fault.ignore_range:
            first, last = match.groups()
            begin = int(first) if first else max(0, entry.size - int(last or 0))
            end = min(int(last) + 1, entry.size) if first and last else entry.size
            if begin >= end:
                unsatisfiable = {"Content-Range": f"bytes */{entry.size}"}
                self._respond(416, b"", {**headers, **unsatisfiable})
                return
            status, headers = 206, {**headers, "Content-Range": f"bytes {begin}-{end - 1}/{entry.size}"}
        kind = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        self._respond(status, entry.content, {**headers, **kind}, begin, end)

    # -- bytes ------------------------------------------------------------------------------------------------------

    def _respond(
        self, status: int, content: Content, headers: Mapping[str, str], begin: int = 0, end: int | None = None
    ) -> None:
        """Send status, headers and `content` from `begin` to `end`, altered by the fault."""
        end = _size(content) if end is None else end
        length = {"Transfer-Encoding": "chunked"} if self.fault.chunked else {"Content-Length": str(end - begin)}
        if self.fault.length is not None:
            length = {"Content-Length": str(self.fault.length)}
        merged = {key.lower(): (key, value) for key, value in {**headers, **length}.items()}
        merged |= {key.lower(): (key, value) for key, value in self.fault.headers.items()}
        self.send_response(status)
        for key, value in merged.values():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self._body(content, begin, end)

    def _body(self, content: Content, begin: int, end: int) -> None:
        fault, started = self.fault, time.monotonic()
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(content.open("rb")) if isinstance(content, Path) else None
            for position, stop in _slices(begin, end, fault):
                done = position - begin
                if self._interrupted(done):
                    return
                self.hub.count(stop - position)  # before it is sent, because a test may check as soon as it arrives
                if fault.corrupt is None and not fault.chunked and file is not None:
                    self.connection.sendfile(file, position, stop - position)
                else:
                    self._piece(_read(content if file is None else file, position, stop), position)
                if fault.rate:
                    self.hub.closing.wait(max(0.0, started + (stop - begin) / fault.rate - time.monotonic()))
            if not self._interrupted(end - begin) and fault.chunked:
                self.wfile.write(b"0\r\n\r\n")
        if fault.length is not None:
            self.close_connection = True

    def _piece(self, piece: bytes, position: int) -> None:
        at = self.fault.corrupt
        if at is not None and position <= at < position + len(piece):
            piece = piece[: at - position] + bytes([piece[at - position] ^ 0xFF]) + piece[at - position + 1 :]
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self.fault.chunked else piece)

    def _interrupted(self, done: int) -> bool:
        """Apply a fault that ends the response after `done` bytes, and return whether there was one."""
        fault = self.fault
        if fault.stall_after is not None and done >= fault.stall_after:
            self._stall()
        elif fault.reset_after is not None and done >= fault.reset_after:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())  # `close` would wait for the streams of the socket
        elif fault.drop_after is None or done < fault.drop_after:
            return False
        self.close_connection = True
        return True

    def _stall(self) -> None:
        until = time.monotonic() + self.fault.stall_seconds
        while time.monotonic() < until and not self.hub.closing.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.05)
            if readable:  # The client has disconnected: it sends nothing during a response.
                return


def _slices(begin: int, end: int, fault: Fault) -> Iterator[tuple[int, int]]:
    """Yield the slices to send; they end where the fault applies, and are small if its rate is low."""
    step = SLICE if not fault.rate else max(1, min(SLICE, int(fault.rate / 20)))
    stops = {begin + count for count in (fault.drop_after, fault.reset_after, fault.stall_after) if count is not None}
    position = begin
    while position < end:
        stop = min([position + step, end, *(stop for stop in stops if stop > position)])
        yield position, stop
        position = stop


def _read(source: object, begin: int, end: int) -> bytes:
    if isinstance(source, bytes):
        return source[begin:end]
    return os.pread(source.fileno(), end - begin, begin)  # type: ignore[attr-defined]


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _entry(content: Content, lfs_above: int) -> Entry:
    size = _size(content)
    if size > lfs_above:
        sha256 = _hash(hashlib.sha256(), content)
        pointer = _pointer(sha256, size)
        return Entry(content, size, _hash(hashlib.sha1(b"blob %d\0" % len(pointer)), pointer), sha256)
    return Entry(content, size, _hash(hashlib.sha1(b"blob %d\0" % size), content))


def _hash(state: hashlib._Hash, content: Content) -> str:
    if isinstance(content, bytes):
        state.update(content)
        return state.hexdigest()
    with content.open("rb") as file:
        while piece := file.read(1 << 20):
            state.update(piece)
    return state.hexdigest()


def _listing(entries: Mapping[str, Entry], folder: str, recursive: bool) -> list[dict[str, object]]:
    """Return the entries of a tree, including folders."""
    entries_below = {path: entry for path, entry in entries.items() if not folder or path.startswith(f"{folder}/")}
    if folder and not entries_below:
        raise _Refused(404, "EntryNotFound", f"{folder} does not exist")
    depth = len(folder.split("/")) if folder else 0
    folders = {
        "/".join(path.split("/")[:number]) for path in entries_below for number in range(depth + 1, path.count("/") + 1)
    }
    listing: list[dict[str, object]] = [
        {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
        for path in sorted(folders)
    ]
    listing += [entry.json(path) for path, entry in entries_below.items()]
    return [entry for entry in listing if recursive or str(entry["path"]).count("/") == depth]
