"""Records of downloads on disk: one JSON file, which several processes may share."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from modules.core.errors import WebUIError
from modules.downloads.disk import disk_errors, replace_file
from modules.hub.repository import Kind
from modules.system import file_lock

State = Literal["queued", "resolving", "downloading", "paused", "verifying", "done", "failed", "cancelled"]
ACTIVE_STATES: tuple[State, ...] = ("queued", "resolving", "downloading", "verifying")
"""States of a job that a process works at or has queued."""
FINAL_STATES: tuple[State, ...] = ("done", "cancelled")
"""States that a job cannot leave; its record is removed."""


@dataclass(frozen=True)
class DownloadSpec:
    """The files of one download, and their folder.

    `files` are paths in the repository; None means all. They go to folder `target` of the models or LoRA folder, by
    `kind`, or to that folder itself if `target` is "". If `flat`, the folders of the repository are dropped. `sha256`,
    unless "", is the hash that the only large file must have.
    """

    repo: str
    revision: str
    target: str
    files: tuple[str, ...] | None = None
    kind: Kind = "model"
    flat: bool = False
    sha256: str = ""

    @property
    def identity(self) -> object:
        """A value that is equal for specs that describe the same download."""
        target = self.kind, self.target, self.flat
        return self.repo, self.revision, *target, self.files and frozenset(self.files), self.sha256


@dataclass(frozen=True)
class JobRecord:
    """The saved state of a job.

    `commit` is what the revision pointed to when it was first resolved, "" before. `moved` is the commit that it points
    to now, if the user has to choose between the two; `keep` is set if the user chose the old one. `total` is the size
    in bytes of all `count` files, `host` the mirror that listed them.
    """

    id: str
    spec: DownloadSpec
    state: State = "queued"
    commit: str = ""
    moved: str = ""
    keep: bool = False
    total: int = 0
    count: int = 0
    host: str = ""
    error: WebUIError | None = None

    def to_json(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["spec"]
        error = self.error.to_json() if self.error else None
        return fields | {"wanted": dataclasses.asdict(self.spec), "error": error}

    @staticmethod
    def from_json(data: dict[str, Any]) -> JobRecord:
        """Invert `to_json`. Raises KeyError, TypeError or ValueError for invalid data."""
        fields = dict(data)
        spec = dict(fields.pop("wanted"))
        if not fields["id"].isalnum() or fields["state"] not in get_args(State) or spec["kind"] not in get_args(Kind):
            raise ValueError(data)
        spec["files"] = None if spec["files"] is None else tuple(spec["files"])
        error = WebUIError.from_json(fields["error"]) if fields["error"] else None
        return JobRecord(**(fields | {"spec": DownloadSpec(**spec), "error": error}))


class JobStore:
    """Reads and writes the records in the file at `path`, which need not exist. Invalid records are skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def version(self) -> tuple[int, ...]:
        """A value that differs whenever the file has changed."""
        try:
            stats = self.path.stat()
        except OSError:
            return ()
        return stats.st_mtime_ns, stats.st_size, stats.st_ino

    def read(self) -> dict[str, JobRecord]:
        """Return the records by id, in the order in which they were first written."""
        records: dict[str, JobRecord] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            for data in json.loads(self.path.read_bytes()):
                with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                    record = JobRecord.from_json(data)
                    records[record.id] = record
        return records

    def put(self, record: JobRecord) -> None:
        """Add or replace a record. Raises DiskFull or DiskRefused."""
        self._change(lambda records: records.update({record.id: record}))

    def remove(self, job: str) -> None:
        """Remove a record if it exists. Raises DiskFull or DiskRefused."""
        self._change(lambda records: records.pop(job, None))

    def _change(self, edit: Callable[[dict[str, JobRecord]], object]) -> None:
        with disk_errors(self.path.parent, 0), self._locked():
            records = self.read()
            edit(records)
            content = json.dumps([record.to_json() for record in records.values()], indent=1)
            replace_file(self.path, content.encode())

    def delete_if_empty(self) -> None:
        """Delete the folder of the file unless there are records, or the data of jobs."""
        if not self.path.exists():
            return
        with contextlib.suppress(OSError), self._locked():
            lock = self._lock_path
            if not self.read() and {path.name for path in self.path.parent.iterdir()} <= {self.path.name, lock.name}:
                self.path.unlink(missing_ok=True)
                lock.unlink()
                self.path.parent.rmdir()

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.lock")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._lock_path, "w") as lock:
            file_lock.acquire(lock.fileno())
            yield
