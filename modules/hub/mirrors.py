"""The configured mirrors of Hugging Face: which are asked in which order, and what they have answered."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from modules.core.errors import ModelProblem
from modules.core.recent import Recent
from modules.formats.gguf_header import GgufHeader
from modules.hub import file_choices, repo_id
from modules.hub.access_token import AccessToken
from modules.hub.client import HubClient
from modules.hub.endpoint_url import DEFAULT_ENDPOINTS, parse_endpoints
from modules.hub.errors import DownloadError
from modules.hub.gguf_probe import read_remote_header
from modules.hub.repo_id import RepoAddress
from modules.hub.repository import Kind, RemoteFile, Repository
from modules.hub.search import FoundRepository

CACHED_REPOSITORIES = 8
CACHED_HEADERS = 32
MAX_ADAPTER_FILES = 8
MAX_ADAPTER_BYTES = 1 << 30
"""Selections of more or larger GGUF files are taken for models without reading their headers."""

T = TypeVar("T")
_HeaderKey = tuple[str, str, tuple[str, ...]]


class Mirrors:
    """Asks the configured endpoints in order, and caches file lists and GGUF headers. Thread-safe.

    `flag` is the value of `--hf-endpoint`; `setting` returns the current one of settings.yaml. Both may list several
    endpoints, separated by commas. Raises BadEndpoint for an invalid flag at once, for an invalid setting or
    HF_ENDPOINT when a mirror is asked.
    """

    def __init__(self, flag: str, setting: Callable[[], str], token: AccessToken | None = None) -> None:
        self._flag, self._setting, self._token = flag, setting, token
        self._lock = threading.Lock()  # guards the two caches
        self._repositories: Recent[tuple[tuple[str, ...], RepoAddress], Repository] = Recent(CACHED_REPOSITORIES)
        self._headers: Recent[_HeaderKey, GgufHeader] = Recent(CACHED_HEADERS)
        self._chosen: str | None = None  # on the page, since the program started
        if flag:
            parse_endpoints(flag)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints to ask, in order.

        Endpoints that the user has configured replace the default ones, so no other host learns what is downloaded.
        """
        candidates = (self._chosen, self._flag, os.environ.get("HF_ENDPOINT", ""), self._setting())
        configured = next((text for text in candidates if text and text.strip()), "")
        return parse_endpoints(configured) or DEFAULT_ENDPOINTS

    def choose(self, text: str) -> None:
        """Use the endpoints in `text` from now on, overriding the command line. Raises BadEndpoint."""
        parse_endpoints(text)
        self._chosen = text

    @property
    def token(self) -> AccessToken | None:
        return self._token

    def set_token(self, token: AccessToken | None) -> None:
        """Set or remove the access token of clients opened from now on."""
        self._token = token

    def open_clients(self) -> list[HubClient]:
        """Return a new client for every endpoint; the caller closes them."""
        return [HubClient(endpoint, self._token) for endpoint in self.endpoints]

    def parse_address(self, text: str, revision: str = "") -> RepoAddress:
        """Parse what the user entered; `revision`, unless "", takes the place of the one in it. Raises BadAddress."""
        address = repo_id.parse_address(text, self.endpoints)
        if not revision:
            return address
        return replace(address, revision=repo_id.parse_address(f"{address.repo}:{revision}").revision)

    # -- repositories --------------------------------------------------------------------------------------------------

    def repository(self, address: RepoAddress, refresh: bool = True) -> Repository:
        """Return the files of a repository below the folder of `address`, from the first endpoint that answers.

        Without `refresh`, a cached answer is returned if there is one. Raises DownloadError.
        """
        key = (self.endpoints, address)
        with self._lock:
            cached = None if refresh else self._repositories.get(key)
        repository = cached or self._fetch_repository(address)
        with self._lock:
            self._repositories[key] = repository
        return repository

    def cached_repository(self, address: RepoAddress) -> Repository | None:
        """Return the last answer for `address` without asking a mirror, or None."""
        with self._lock:
            return self._repositories.get((self.endpoints, address))

    def _fetch_repository(self, address: RepoAddress) -> Repository:
        def ask(client: HubClient) -> Repository:
            return file_choices.restrict_to_folder(client.repository(address.repo, address.revision), address.folder)

        return self._first_answer(ask)

    def search(self, text: str) -> tuple[FoundRepository, ...]:
        """Search the first endpoint that answers for repositories of GGUF files. Raises DownloadError."""
        return self._first_answer(lambda client: client.search(text))

    def _first_answer(self, ask: Callable[[HubClient], T]) -> T:
        """Return what `ask` returns for the first endpoint that answers. Raises DownloadError if none does."""
        failures: list[DownloadError] = []
        for client in self.open_clients():
            with contextlib.closing(client):
                try:
                    return ask(client)
                except DownloadError as error:
                    failures.append(error)
        # A permanent error tells more than a mirror that could not be reached.
        permanent = [error for error in failures if not error.transient]
        raise [*permanent, *failures][0]

    # -- GGUF headers --------------------------------------------------------------------------------------------------

    def gguf_header(self, repository: Repository, files: Sequence[RemoteFile]) -> GgufHeader:
        """Return the header of the GGUF model whose parts are `files`, cached or from the first mirror that has it.

        Raises DownloadError, or ModelProblem if the header is invalid.
        """
        key = (repository.name, repository.commit, tuple(file.path for file in files))
        with self._lock:
            cached = self._headers.get(key)
        header = cached or self._fetch_header(repository, files)
        with self._lock:
            self._headers[key] = header
        return header

    def _fetch_header(self, repository: Repository, files: Sequence[RemoteFile]) -> GgufHeader:
        failure: DownloadError | None = None
        with contextlib.ExitStack() as stack:
            for client in [stack.enter_context(contextlib.closing(client)) for client in self.open_clients()]:
                with contextlib.closing(client.source(repository)) as source:
                    try:
                        return read_remote_header(source, files)
                    except DownloadError as error:
                        failure = failure or error
        assert failure is not None, "there is always an endpoint"
        raise failure

    def kind(self, repository: Repository, files: Sequence[RemoteFile], fetch: bool = True) -> Kind | None:
        """Return "lora" if all `files` are GGUF adapters by their headers, or None if their names decide.

        Without `fetch`, only cached headers count, and one file of a repository speaks for all of them.
        """
        small = len(files) <= MAX_ADAPTER_FILES and sum(file.size for file in files) <= MAX_ADAPTER_BYTES
        if not small or any(not file.path.lower().endswith(".gguf") for file in files):
            return None
        try:
            if fetch:
                headers = [self.gguf_header(repository, [file]) for file in files]
            else:
                headers = self._cached_headers(repository)
        except (DownloadError, ModelProblem):  # the download itself will report what is wrong
            return None
        return "lora" if headers and all(header.kind == "adapter" for header in headers) else None

    def _cached_headers(self, repository: Repository) -> list[GgufHeader]:
        with self._lock:
            return [
                header
                for (name, commit, _), header in self._headers.items()
                if (name, commit) == (repository.name, repository.commit)
            ]
