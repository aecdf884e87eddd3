"""What is remembered of a download while the program does not run: one file, which several processes may share."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from modules.core.errors import WebUIError
from modules.downloads.partial_file import disk_faults, replace_file
from modules.hub.repository import Kind
from modules.system import file_lock

State = Literal["queued", "resolving", "downloading", "paused", "verifying", "done", "failed", "cancelled"]
WORKING: tuple[State, ...] = ("queued", "resolving", "downloading", "verifying")
"""The states of a job that somebody works at, or will."""


@dataclass(frozen=True)
class Wanted:
    """These `files` of a repository, or all. They go to the folder `target` below that of their kind, or to that folder
    itself if it is ""; if `flat`, without the folders they have in the repository. Their one large file is to have the
    `sha256` that the user knows from elsewhere, if that is not ""."""

    repo: str
    revision: str
    target: str
    files: tuple[str, ...] | None = None
    kind: Kind = "model"
    flat: bool = False
    sha256: str = ""

    @property
    def same(self) -> object:
        """Equal for two that want the same."""
        where = self.kind, self.target, self.flat
        return self.repo, self.revision, *where, self.files and frozenset(self.files), self.sha256


@dataclass(frozen=True)
class JobRecord:
    """`commit` is what the revision was when it was first asked for, "" before; `moved` what it has become since, if
    the user is to choose. `keep` if the user chose the old one. `total` is in bytes, of `count` files; `host` is the
    mirror that listed them.
    """

    id: str
    wanted: Wanted
    state: State = "queued"
    commit: str = ""
    moved: str = ""
    keep: bool = False
    total: int = 0
    count: int = 0
    host: str = ""
    error: WebUIError | None = None

    def to_json(self) -> dict[str, Any]:
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        error = self.error.to_json() if self.error else None
        return fields | {"wanted": dataclasses.asdict(self.wanted), "error": error}

    @staticmethod
    def from_json(told: dict[str, Any]) -> JobRecord:
        """The inverse of `to_json`; KeyError, TypeError, ValueError if it is none of ours."""
        wanted = dict(told["wanted"])
        if not told["id"].isalnum() or told["state"] not in get_args(State) or wanted["kind"] not in get_args(Kind):
            raise ValueError(told)
        wanted["files"] = None if wanted["files"] is None else tuple(wanted["files"])
        error = WebUIError.from_json(told["error"]) if told["error"] else None
        return JobRecord(**(told | {"wanted": Wanted(**wanted), "error": error}))


class JobRecords:
    """The records in the file at `path`, which need not exist. One that cannot be read is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def stamp(self) -> tuple[int, ...]:
        """Another one whenever the file has changed."""
        try:
            facts = self.path.stat()
        except OSError:
            return ()
        return facts.st_mtime_ns, facts.st_size, facts.st_ino

    def read(self) -> dict[str, JobRecord]:
        """By id, in the order in which they were first written."""
        records: dict[str, JobRecord] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            for each in json.loads(self.path.read_bytes()):
                with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                    record = JobRecord.from_json(each)
                    records[record.id] = record
        return records

    def put(self, record: JobRecord) -> None:
        """DiskFull, DiskRefused."""
        self._change(lambda records: records.update({record.id: record}))

    def remove(self, job: str) -> None:
        """DiskFull, DiskRefused."""
        self._change(lambda records: records.pop(job, None))

    def _change(self, edit: Callable[[dict[str, JobRecord]], object]) -> None:
        with disk_faults(self.path.parent, 0), self._locked():
            records = self.read()
            edit(records)
            replace_file(self.path, json.dumps([each.to_json() for each in records.values()], indent=1).encode())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name(f".{self.path.name}.lock"), "w") as lock:
            file_lock.wait_for(lock.fileno())
            yield
