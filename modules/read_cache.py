"""What was read of files, kept until they change."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from modules.errors import DamagedModel, ModelProblem
from modules.rawfile import readable

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Reading(Generic[T_co]):
    """One way of reading a file. `read` raises ModelProblem or OSError."""

    name: str
    read: Callable[[Path], T_co]


class ReadCache:
    """What each Reading made of each file, known by its path, its size and its time of change."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[tuple[int, int], Any]] = {}  # by reading and path: stamp, result
        self._lock = threading.Lock()  # held for moments only, never while a file is read

    def get(self, path: Path, facts: os.stat_result, reading: Reading[T]) -> T | ModelProblem:
        """What `reading` makes of the file, or its complaint; read again only once the file has changed."""
        key, stamp = (reading.name, str(path)), (facts.st_size, facts.st_mtime_ns)
        with self._lock:
            known = self._known.get(key)
        if known is not None and known[0] == stamp:
            kept: T | ModelProblem = known[1]
            return kept
        try:
            found: T | ModelProblem = reading.read(path)
        except ModelProblem as error:
            found = error.with_traceback(None)
        except OSError as error:  # not remembered: permissions change without the file changing
            return _unreadable(path, error)
        with self._lock:
            self._known[key] = (stamp, found)
        return found


def _unreadable(path: Path, error: OSError) -> DamagedModel:
    words = error.strerror or type(error).__name__
    problem = {"en": f"the file cannot be read ({words}).", "zh": f"无法读取该文件（{words}）。"}
    return DamagedModel(readable(path.name), problem)
