"""Client of one hub endpoint: commits of branches, file lists, and a source of file contents.

Source: the REST interface of huggingface.co, as huggingface_hub uses it. Anybody can run a mirror, so sizes, names and
pagination links in its answers are validated.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from modules.core.errors import Words
from modules.hub.access_token import AccessToken
from modules.hub.connections import CONNECT_SECONDS, READ_SECONDS, ConnectionPool
from modules.hub.errors import (
    DownloadError,
    FileNotOnHub,
    NotAHub,
    RepositoryNotFound,
    RevisionNotFound,
    SearchUnavailable,
)
from modules.hub.file_source import HubFileSource
from modules.hub.http import HttpClient
from modules.hub.repository import FileSource, RemoteFile, Repository
from modules.hub.safe_paths import check_files
from modules.hub.search import FoundRepository, read_results, search_path

MAX_FILES, MAX_PAGES = 20_000, 1000

_COMMIT = re.compile(r"[0-9a-f]{40}")
_API = "/api/models/"

_ENDLESS_LIST: Words = {"en": "its file list does not end", "zh": "文件列表无法读到结尾"}
_NO_LIST: Words = {"en": "the answer is not a list of files", "zh": "返回的不是文件列表"}
_TOO_MANY_FILES: Words = {"en": f"more than {MAX_FILES:,} files", "zh": f"文件超过 {MAX_FILES:,} 个"}
_INCOMPLETE_ENTRY: Words = {"en": "a file without path, size or hash", "zh": "有文件缺少路径、大小或哈希值"}
_BAD_ENTRY: Words = {"en": "a file whose path or hash is not text", "zh": "有文件的路径或哈希值不是文本"}
_BAD_NEXT_PAGE: Words = {"en": "an invalid link to the next page", "zh": "下一页的链接无效"}


class HubClient:
    """The hub at `endpoint`, a URL as `endpoint_url.parse_endpoint` returns it. Thread-safe.

    Every method that asks the hub raises DownloadError. The timeouts are those of `ConnectionPool`.
    """

    def __init__(
        self,
        endpoint: str,
        token: AccessToken | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._endpoint, self._token, self._timeouts = endpoint, token, (connect_seconds, read_seconds)
        self._http = HttpClient(endpoint, token, ConnectionPool(4, *self._timeouts))
        self.host = self._http.host
        self._file_lists: dict[tuple[str, str], tuple[RemoteFile, ...]] = {}  # by repository and (immutable) commit
        self._lock = threading.Lock()  # guards the file lists

    def resolve_commit(self, repo: str, revision: str) -> str:
        """Return the commit that the branch or tag `revision` points to, 40 hexadecimal digits."""
        if _COMMIT.fullmatch(revision):
            return revision
        link = self._http.link(f"{_API}{repo}/revision/{quote(revision, safe='')}")
        try:
            answer, _ = self._http.get_json(link, repo)
        except RevisionNotFound:
            raise self._revision_not_found(repo, revision) from None
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise NotAHub(self.host, {"en": f"no commit for {repo}", "zh": f"没有给出 {repo} 的提交号"})
        return commit

    def branches(self, repo: str) -> list[str]:
        """Return the names of all branches and tags."""
        answer, _ = self._http.get_json(self._http.link(f"{_API}{repo}/refs"), repo)
        refs = answer if isinstance(answer, dict) else {}
        entries = [entry for kind in ("branches", "tags") for entry in _as_list(refs.get(kind))]
        names = [entry.get("name") for entry in entries if isinstance(entry, dict)]
        return [name for name in names if isinstance(name, str) and name.isprintable()]

    def repository(self, repo: str, revision: str) -> Repository:
        """Return the files at the commit that `revision` points to.

        Raises UnsafeName if one of them must not be created on a disk.
        """
        commit = self.resolve_commit(repo, revision)
        with self._lock:
            files = self._file_lists.get((repo, commit))
        if files is None:
            try:
                files = tuple(self._list_files(repo, commit))
            except RevisionNotFound:
                raise self._revision_not_found(repo, revision) from None
            check_files(files)
            with self._lock:
                self._file_lists[repo, commit] = files
        return Repository(repo, revision, commit, files)

    def search(self, text: str) -> tuple[FoundRepository, ...]:
        """Return repositories of GGUF files by name, the most downloaded first.

        Raises SearchUnavailable if the hub does not answer a search as huggingface.co does.
        """
        try:
            answer, _ = self._http.get_json(self._http.link(search_path(text)), "")
            return read_results(answer)
        except (FileNotOnHub, NotAHub, RepositoryNotFound, RevisionNotFound, ValueError) as error:
            raise SearchUnavailable(self.host) from error

    def source(self, repository: Repository) -> FileSource:
        """Return a source of the repository's file contents, with connections of its own."""
        return HubFileSource(self._endpoint, self._token, repository, ConnectionPool(8, *self._timeouts))

    def close(self) -> None:
        """Abort pending requests with Stopped; sources stay open. Thread-safe."""
        self._http.connections.close()

    def _revision_not_found(self, repo: str, revision: str) -> RevisionNotFound:
        try:
            return RevisionNotFound(repo, revision, self.branches(repo))
        except DownloadError:
            return RevisionNotFound(repo, revision, ())

    def _list_files(self, repo: str, commit: str) -> Iterator[RemoteFile]:
        path, seen, count = f"{_API}{repo}/tree/{commit}?recursive=true&expand=false", set[str](), 0
        while path:
            if path in seen or len(seen) == MAX_PAGES:
                raise NotAHub(self.host, _ENDLESS_LIST)
            seen.add(path)
            entries, response = self._http.get_json(self._http.link(path), repo)
            if not isinstance(entries, list):
                raise NotAHub(self.host, _NO_LIST)
            for file in filter(None, map(self._parse_entry, entries)):
                count += 1
                if count > MAX_FILES:
                    raise NotAHub(self.host, _TOO_MANY_FILES)
                yield file
            path = self._next_page(response)

    def _parse_entry(self, entry: Any) -> RemoteFile | None:
        """Return a file of the list, or None for a folder.

        Size and hashes may still have any type and value; `safe_paths.check_files` validates them.
        """
        try:
            if entry["type"] != "file":
                return None
            if lfs := entry.get("lfs"):
                file = RemoteFile(entry["path"], lfs.get("size", entry["size"]), sha256=lfs["oid"])
            else:
                file = RemoteFile(entry["path"], entry["size"], git_oid=entry["oid"])
        except (KeyError, TypeError, AttributeError) as error:
            raise NotAHub(self.host, _INCOMPLETE_ENTRY) from error
        if not all(isinstance(text, str) for text in (file.path, file.sha256, file.git_oid)):
            raise NotAHub(self.host, _BAD_ENTRY)
        return file

    def _next_page(self, response: requests.Response) -> str:
        """Return path and query of the next page, or "". Mirrors pass on links to huggingface.co here."""
        url = response.links.get("next", {}).get("url", "")
        if not url:
            return ""
        try:
            parts = urlsplit(url)
        except ValueError:
            raise NotAHub(self.host, _BAD_NEXT_PAGE) from None
        path = parts.path.removeprefix(urlsplit(self._endpoint).path)
        if not path.startswith(_API):
            raise NotAHub(self.host, _BAD_NEXT_PAGE)
        return f"{path}?{parts.query}" if parts.query else path


def _as_list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
