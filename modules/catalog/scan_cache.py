"""Cache what was read from files until they change, over restarts too if there is a file to keep it in.

The cache file has two lines: the version of the cache and a hash of the second line; then, by reader and path, what
was read. A cache file that is damaged or of another version only means that the files are read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from modules.core.errors import DamagedModel, ModelProblem, WebUIError
from modules.system.format_errors import printable

VERSION = 7
"""To be raised whenever a reader returns something else for the same file."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Json = Any
_Key = tuple[str, str]  # a reader's name, a path
_Stamp = tuple[int, int]  # size in bytes, modification time in ns


@dataclass(frozen=True)
class FileReader(Generic[T_co]):
    """Read a file, and convert the result to JSON and back. `read` raises ModelProblem or OSError."""

    name: str
    read: Callable[[Path], T_co]
    to_json: Callable[[Any], Json]
    from_json: Callable[[Json], T_co]


class ScanCache:
    """Results of FileReaders by path, size and modification time, kept in `file`."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._results: dict[_Key, tuple[_Stamp, FileReader[Any], Any]] = {}
        self._stored: dict[_Key, Json] | None = None  # entries of the file that were not asked for yet
        self._changed = False
        self._used: set[str] = set()  # paths asked for since `forget_unused`
        self._lock = threading.Lock()  # held for moments only, never while a model's file is read

    def get(self, path: Path, status: os.stat_result, reader: FileReader[T]) -> T | ModelProblem:
        """Return what `reader` reads from the file, or the problem it raises; read it again only if it has changed."""
        key, stamp = (reader.name, str(path)), (status.st_size, status.st_mtime_ns)
        with self._lock:
            self._used.add(key[1])
            cached = self._results.get(key) or self._restore(key, reader)
        if cached is not None and cached[0] == stamp:
            kept: T | ModelProblem = cached[2]
            return kept
        try:
            result: T | ModelProblem = reader.read(path)
        except ModelProblem as error:
            result = error.with_traceback(None)
        except OSError as error:  # not cached: permissions change without the file changing
            return _unreadable(path, error)
        with self._lock:
            self._results[key] = (stamp, reader, result)
            self._changed = True
        return result

    def _restore(self, key: _Key, reader: FileReader[Any]) -> tuple[_Stamp, FileReader[Any], Any] | None:
        """Move the entry for `key` from the stored ones to the results."""
        try:
            size, modified, problem, result = self._load_stored().pop(key)
            value = WebUIError.from_json(problem) if problem else reader.from_json(result)
        except (KeyError, TypeError, ValueError):
            return None
        self._results[key] = ((size, modified), reader, value)
        return self._results[key]

    def _load_stored(self) -> dict[_Key, Json]:
        if self._stored is None:
            self._stored = _load(self._file) if self._file else {}
        return self._stored

    def forget_unused(self) -> None:
        """Forget files not asked for since this was last called; write the cache file if anything has changed."""
        with self._lock:
            names, self._used = self._used, set()
            results = {key: result for key, result in self._results.items() if key[1] in names}
            stored = {key: entry for key, entry in self._load_stored().items() if key[1] in names}
            forgot = len(results) < len(self._results) or len(stored) < len(self._load_stored())
            self._results, self._stored = results, stored
            changed, self._changed = self._changed or forgot, False
            snapshot = list(results.items())
        if self._file and changed:
            _save(self._file, stored | {key: _entry(*result) for key, result in snapshot})


def _entry(stamp: _Stamp, reader: FileReader[Any], result: Any) -> Json:
    if isinstance(result, ModelProblem):
        return [*stamp, result.to_json(), None]
    return [*stamp, None, reader.to_json(result)]


def _load(file: Path) -> dict[_Key, Json]:
    try:
        head, body = file.read_bytes().split(b"\n", 1)
        if json.loads(head) == _head(body):
            return {(name, path): entry for name, files in json.loads(body).items() for path, entry in files.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        pass
    return {}


def _head(body: bytes) -> Json:
    return {"version": VERSION, "hash": hashlib.blake2b(body, digest_size=16).hexdigest()}


def _save(file: Path, entries: dict[_Key, Json]) -> None:
    by_reader: dict[str, dict[str, Json]] = {}
    for (name, path), entry in entries.items():
        by_reader.setdefault(name, {})[path] = entry
    body = json.dumps(by_reader, separators=(",", ":")).encode()
    with contextlib.suppress(OSError):  # a full disk, or no permission: the next start reads the files again
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, json.dumps(_head(body)).encode() + b"\n" + body)


def _replace(file: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with open(descriptor, "wb") as new:
            new.write(content)
        os.replace(name, file)
    finally:
        Path(name).unlink(missing_ok=True)


def _unreadable(path: Path, error: OSError) -> DamagedModel:
    reason = error.strerror or type(error).__name__
    problem = {"en": f"the file cannot be read ({reason}).", "zh": f"无法读取该文件（{reason}）。"}
    return DamagedModel(printable(path.name), problem)
