"""One mirror of Hugging Face: which commit a branch is at, which files it has, and a source of their bytes.

Source: the REST interface of huggingface.co, as huggingface_hub asks it. A mirror may be anybody's, so nothing it says
is taken on trust: not its sizes, its names, nor where its next page is.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from modules.hub.connections import CONNECT_SECONDS, READ_SECONDS, Connections
from modules.hub.endpoints import Token
from modules.hub.errors import DownloadError, NotAHub, RevisionNotFound
from modules.hub.file_source import HubSource
from modules.hub.http import Client
from modules.hub.repository import RemoteFile, Repository, Source
from modules.hub.safe_paths import check

MOST_FILES, MOST_PAGES = 20_000, 1000

_COMMIT = re.compile(r"[0-9a-f]{40}")
_API = "/api/models/"


class Hub:
    """The mirror at `endpoint`, as `mirrors.endpoint` writes it. Its methods ask it, and raise DownloadError.

    Any thread may call them. `connect_seconds` and `read_seconds` are as of `Connections`.
    """

    def __init__(
        self,
        endpoint: str,
        token: Token | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._endpoint, self._token, self._seconds = endpoint, token, (connect_seconds, read_seconds)
        self._client = Client(endpoint, token, Connections(4, *self._seconds))
        self.host = self._client.host
        self._lists: dict[tuple[str, str], tuple[RemoteFile, ...]] = {}  # by repository and commit, which never change
        self._lock = threading.Lock()

    def resolve(self, repo: str, revision: str) -> str:
        """The commit that the branch `revision` is at now: 40 hexadecimal digits."""
        if _COMMIT.fullmatch(revision):
            return revision
        link = self._client.link(f"{_API}{repo}/revision/{quote(revision, safe='')}")
        try:
            told, _ = self._client.page(link, repo)
        except RevisionNotFound:
            raise self._no_revision(repo, revision) from None
        commit = told.get("sha") if isinstance(told, dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise NotAHub(self.host, f"no commit for {repo}")
        return commit

    def branches(self, repo: str) -> list[str]:
        """The names of all branches and tags."""
        told, _ = self._client.page(self._client.link(f"{_API}{repo}/refs"), repo)
        known = told if isinstance(told, dict) else {}
        listed = [each for kind in ("branches", "tags") for each in _list(known.get(kind))]
        names = [each.get("name") for each in listed if isinstance(each, dict)]
        return [name for name in names if isinstance(name, str) and name.isprintable()]

    def repository(self, repo: str, revision: str) -> Repository:
        """The files at the commit that `revision` is now. UnsafeName if one of them cannot be had on a disk."""
        commit = self.resolve(repo, revision)
        with self._lock:
            files = self._lists.get((repo, commit))
        if files is None:
            try:
                files = tuple(self._files(repo, commit))
            except RevisionNotFound:
                raise self._no_revision(repo, revision) from None
            check(files)
            with self._lock:
                self._lists[repo, commit] = files
        return Repository(repo, revision, commit, files)

    def source(self, repository: Repository) -> Source:
        """The bytes of its files, over connections of its own."""
        return HubSource(self._endpoint, self._token, repository, Connections(8, *self._seconds))

    def close(self) -> None:
        """From any thread: what waits for an answer fails at once, with Stopped. Sources stay."""
        self._client.connections.close()

    def _no_revision(self, repo: str, revision: str) -> RevisionNotFound:
        try:
            return RevisionNotFound(repo, revision, self.branches(repo))
        except DownloadError:
            return RevisionNotFound(repo, revision, ())

    def _files(self, repo: str, commit: str) -> Iterator[RemoteFile]:
        path, seen, count = f"{_API}{repo}/tree/{commit}?recursive=true&expand=false", set[str](), 0
        while path:
            if path in seen or len(seen) == MOST_PAGES:
                raise NotAHub(self.host, "a list without an end")
            seen.add(path)
            told, response = self._client.page(self._client.link(path), repo)
            if not isinstance(told, list):
                raise NotAHub(self.host, "no list of files")
            for file in filter(None, map(self._file, told)):
                count += 1
                if count > MOST_FILES:
                    raise NotAHub(self.host, f"more than {MOST_FILES:,} files")
                yield file
            path = self._next(response)

    def _file(self, entry: Any) -> RemoteFile | None:
        """None for a folder. Its size and hashes may still be anything; `check` looks at them."""
        try:
            if entry["type"] != "file":
                return None
            if large := entry.get("lfs"):
                file = RemoteFile(entry["path"], large.get("size", entry["size"]), sha256=large["oid"])
            else:
                file = RemoteFile(entry["path"], entry["size"], git_oid=entry["oid"])
        except (KeyError, TypeError, AttributeError) as error:
            raise NotAHub(self.host, "a file without path, size or hash") from error
        if not all(isinstance(each, str) for each in (file.path, file.sha256, file.git_oid)):
            raise NotAHub(self.host, "a file whose path or hash is no text")
        return file

    def _next(self, response: requests.Response) -> str:
        """The path and query of the next page, which mirrors say is on huggingface.co; "" if there is none."""
        url = response.links.get("next", {}).get("url", "")
        if not url:
            return ""
        try:
            parts = urlsplit(url)
        except ValueError:
            raise NotAHub(self.host, "a list that goes on nowhere") from None
        path = parts.path.removeprefix(urlsplit(self._endpoint).path)
        if not path.startswith(_API):
            raise NotAHub(self.host, "a list that goes on elsewhere")
        return f"{path}?{parts.query}" if parts.query else path


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
