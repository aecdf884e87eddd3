"""Which mirrors of Hugging Face are asked, by whatever last said so, and what they have."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence

from modules.core.errors import ModelProblem
from modules.formats.gguf_header import GgufHeader
from modules.hub import endpoints as mirrors
from modules.hub import file_choices, repo_id
from modules.hub.client import Hub
from modules.hub.endpoints import Token
from modules.hub.errors import DownloadError
from modules.hub.gguf_probe import read_remote_header
from modules.hub.repo_id import Address
from modules.hub.repository import Kind, RemoteFile, Repository

MOST_SEEN = 8
"""So many lists of files are kept."""
MOST_HEADERS = 32
MOST_ADAPTERS = 8
LARGEST_ADAPTER = 1 << 30
"""Bytes: of larger GGUF files, or more than so many, nobody is asked whether they are adapters."""


class Hubs:
    """`flag` is that of `--hf-endpoint`, `setting` what settings.yaml says now; each may hold several, separated by
    commas. BadEndpoint for a wrong flag at once, for a wrong setting or HF_ENDPOINT when a hub is asked. `token` goes
    to its own hosts alone."""

    def __init__(self, flag: str, setting: Callable[[], str], token: Token | None = None) -> None:
        self._flag, self._setting, self._token = flag, setting, token
        self._lock = threading.Lock()
        self._seen: dict[tuple[tuple[str, ...], Address], Repository] = {}  # the one asked for last at its end
        self._headers: dict[tuple[str, str, tuple[str, ...]], GgufHeader] = {}
        self._chosen: str | None = None  # on the page, since the program started
        if flag:
            several(flag)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Those to ask, the first one first. Nobody else is told what the user wants once the user has said whom to
        ask."""
        wishes = (self._chosen, self._flag, os.environ.get("HF_ENDPOINT", ""), self._setting())
        wish = next((each for each in wishes if each and each.strip()), "")
        return several(wish) or mirrors.endpoints()

    def choose(self, text: str) -> None:
        """Ask these from now on, whatever the command line said. BadEndpoint."""
        several(text)
        self._chosen = text

    @property
    def token(self) -> Token | None:
        return self._token

    def allow(self, token: Token | None) -> None:
        """Hubs that are opened from now on have this access token, or none."""
        self._token = token

    def open(self) -> list[Hub]:
        """A hub for each endpoint, to be closed by the caller."""
        return [Hub(each, self._token) for each in self.endpoints]

    def address(self, text: str) -> Address:
        """What was typed. BadAddress."""
        return repo_id.parse(text, self.endpoints)

    def repository(self, address: Address, again: bool = True) -> Repository:
        """What the first endpoint that answers has of it, below the folder that a link named. Unless `again`, what was
        seen before will do. DownloadError."""
        key = (self.endpoints, address)
        with self._lock:
            seen = None if again else self._seen.get(key)
        found = seen or self._asked(address)
        with self._lock:
            self._seen.pop(key, None)
            self._seen[key] = found
            while len(self._seen) > MOST_SEEN:
                del self._seen[next(iter(self._seen))]
        return found

    def seen(self, address: Address) -> Repository | None:
        """What was last seen of it, if that is remembered: nobody is asked."""
        with self._lock:
            return self._seen.get((self.endpoints, address))

    def _asked(self, address: Address) -> Repository:
        failures: list[DownloadError] = []
        for hub in self.open():
            with contextlib.closing(hub):
                try:
                    return file_choices.below(hub.repository(address.repo, address.revision), address.folder)
                except DownloadError as error:
                    failures.append(error)
        lasting = [each for each in failures if not each.passing]  # says more than that one could not be reached
        raise [*lasting, *failures][0]

    def header(self, repository: Repository, files: Sequence[RemoteFile]) -> GgufHeader:
        """That of the GGUF model with these parts, from the first hub that has it, or as it was seen before.
        DownloadError; ModelProblem if it is none."""
        key = _key(repository, files)
        with self._lock:
            seen = self._headers.get(key)
        found = seen or self._asked_header(repository, files)
        with self._lock:
            self._headers[key] = found
            while len(self._headers) > MOST_HEADERS:
                del self._headers[next(iter(self._headers))]
        return found

    def _asked_header(self, repository: Repository, files: Sequence[RemoteFile]) -> GgufHeader:
        failure: DownloadError | None = None
        with contextlib.ExitStack() as opened:
            for hub in [opened.enter_context(contextlib.closing(each)) for each in self.open()]:
                with contextlib.closing(hub.source(repository)) as source:
                    try:
                        return read_remote_header(source, files)
                    except DownloadError as error:
                        failure = failure or error
        assert failure is not None, "there is always an endpoint"
        raise failure

    def kind(self, repository: Repository, files: Sequence[RemoteFile], ask: bool = True) -> Kind | None:
        """ "lora" if `files` are GGUF adapters, which their headers alone say; None if their names are to be believed.
        Unless `ask`, only headers that have been seen count, and one file of a repository speaks for the others."""
        few = len(files) <= MOST_ADAPTERS and sum(file.size for file in files) <= LARGEST_ADAPTER
        if not few or any(not file.path.lower().endswith(".gguf") for file in files):
            return None
        try:
            told = [self.header(repository, [each]) for each in files] if ask else self._known_headers(repository)
        except (DownloadError, ModelProblem):  # the download tells what is wrong
            return None
        return "lora" if told and all(each.kind == "adapter" for each in told) else None

    def _known_headers(self, repository: Repository) -> list[GgufHeader]:
        of = repository.name, repository.commit
        with self._lock:
            return [header for (*about, _), header in self._headers.items() if tuple(about) == of]


def _key(repository: Repository, files: Sequence[RemoteFile]) -> tuple[str, str, tuple[str, ...]]:
    return repository.name, repository.commit, tuple(file.path for file in files)


def token_from(environment: Mapping[str, str]) -> Token | None:
    """The access token in HF_TOKEN, for huggingface.co alone. BadToken."""
    secret = environment.get("HF_TOKEN", "").strip()
    return Token(secret, frozenset({mirrors.host(mirrors.HUGGING_FACE)})) if secret else None


def several(text: str) -> tuple[str, ...]:
    """The endpoints in `text`, separated by commas. BadEndpoint."""
    return tuple(dict.fromkeys(mirrors.endpoint(each) for each in text.split(",") if each.strip()))
