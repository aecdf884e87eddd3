"""What was read of files, kept until they change, over restarts as well if there is a file to keep it in.

That file is two lines: which version of this program wrote the second, and its hash; then, for every reading and path,
what was read. Whatever is wrong with it only means that the files are read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from modules.core.errors import DamagedModel, ModelProblem, WebUIError
from modules.system.format_errors import printable

VERSION = 5
"""To be raised whenever a reading comes to see something else in the same file."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Json = Any
_Key = tuple[str, str]  # a reading's name, a path
_Stamp = tuple[int, int]  # size in bytes, time of change in ns


@dataclass(frozen=True)
class Reading(Generic[T_co]):
    """One way of reading a file. `read` raises ModelProblem or OSError; `write` and `revive` go to JSON and back."""

    name: str
    read: Callable[[Path], T_co]
    write: Callable[[Any], Json]
    revive: Callable[[Json], T_co]


class ReadCache:
    """What each Reading made of each file, known by its path, its size and its time of change; kept in `file`."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known: dict[_Key, tuple[_Stamp, Reading[Any], Any]] = {}
        self._stored: dict[_Key, Json] | None = None  # what the file had and nobody has asked for yet
        self._changed = False
        self._lock = threading.Lock()  # held for moments only, never while a model's file is read

    def get(self, path: Path, facts: os.stat_result, reading: Reading[T]) -> T | ModelProblem:
        """What `reading` makes of the file, or its complaint; read again only once the file has changed."""
        key, stamp = (reading.name, str(path)), (facts.st_size, facts.st_mtime_ns)
        with self._lock:
            known = self._known.get(key) or self._revived(key, reading)
        if known is not None and known[0] == stamp:
            kept: T | ModelProblem = known[2]
            return kept
        try:
            found: T | ModelProblem = reading.read(path)
        except ModelProblem as error:
            found = error.with_traceback(None)
        except OSError as error:  # not remembered: permissions change without the file changing
            return _unreadable(path, error)
        with self._lock:
            self._known[key] = (stamp, reading, found)
            self._changed = True
        return found

    def _revived(self, key: _Key, reading: Reading[Any]) -> tuple[_Stamp, Reading[Any], Any] | None:
        """What the file has under `key`, which is then known."""
        try:
            size, changed, problem, found = self._loaded().pop(key)
            value = WebUIError.from_json(problem) if problem else reading.revive(found)
        except (KeyError, TypeError, ValueError):
            return None
        self._known[key] = ((size, changed), reading, value)
        return self._known[key]

    def _loaded(self) -> dict[_Key, Json]:
        if self._stored is None:
            self._stored = _load(self._file) if self._file else {}
        return self._stored

    def keep(self, paths: Collection[Path]) -> None:
        """Forget all other files, and have what is new stored."""
        names = {str(path) for path in paths}
        with self._lock:
            kept = {key: each for key, each in self._known.items() if key[1] in names}
            stored = {key: each for key, each in self._loaded().items() if key[1] in names}
            gone = len(kept) < len(self._known) or len(stored) < len(self._loaded())
            self._known, self._stored = kept, stored
            wanted, self._changed = self._changed or gone, False
            entries = list(kept.items())
        if self._file and wanted:
            _save(self._file, stored | {key: _entry(*each) for key, each in entries})


def _entry(stamp: _Stamp, reading: Reading[Any], found: Any) -> Json:
    if isinstance(found, ModelProblem):
        return [*stamp, found.to_json(), None]
    return [*stamp, None, reading.write(found)]


def _load(file: Path) -> dict[_Key, Json]:
    try:
        head, body = file.read_bytes().split(b"\n", 1)
        if json.loads(head) == _head(body):
            return {(name, path): each for name, files in json.loads(body).items() for path, each in files.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        pass
    return {}


def _head(body: bytes) -> Json:
    return {"version": VERSION, "hash": hashlib.blake2b(body, digest_size=16).hexdigest()}


def _save(file: Path, entries: dict[_Key, Json]) -> None:
    by_reading: dict[str, dict[str, Json]] = {}
    for (name, path), each in entries.items():
        by_reading.setdefault(name, {})[path] = each
    body = json.dumps(by_reading, separators=(",", ":")).encode()
    with contextlib.suppress(OSError):  # a full disk, or one that is not ours to write: the next start reads again
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
    words = error.strerror or type(error).__name__
    problem = {"en": f"the file cannot be read ({words}).", "zh": f"无法读取该文件（{words}）。"}
    return DamagedModel(printable(path.name), problem)
