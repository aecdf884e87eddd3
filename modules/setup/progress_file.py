"""A note in which the process that installs an overlay tells those that wait for it how it goes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.downloads.partial_file import replace_file

_NAME = "progress.json"
_EVERY_SECONDS = 0.5
_VOLATILE = ("says", "seconds_left")


class NoteWriter:
    """Writes into the folder of an installation. `yields` lets others end the process that writes."""

    def __init__(self, folder: Path, yields: bool) -> None:
        self._path = folder / _NAME
        self._yields = yields
        self._written = 0.0
        self._counted: Mapping[str, object] = {}

    def write(self, progress: Mapping[str, object]) -> None:
        """Write the progress down, but not each line that pip says. A note that cannot be written is no failure."""
        now, counted = time.monotonic(), {key: value for key, value in progress.items() if key not in _VOLATILE}
        if counted == self._counted and now - self._written < _EVERY_SECONDS:
            return
        self._written, self._counted = now, counted
        note = {"pid": os.getpid(), "yields": self._yields, "progress": progress}
        with contextlib.suppress(OSError):
            replace_file(self._path, json.dumps(note).encode())


@dataclass(frozen=True)
class Note:
    """The note of another process, which runs."""

    progress: Mapping[str, object]
    pid: int
    yields: bool

    def interrupt(self) -> None:
        """End the process if it lets others do so."""
        if self.yields and os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGINT)


def read(place: Path, pattern: str) -> Note | None:
    """Return the note of the installation whose folder in `place` matches; None if no such process runs."""
    for path in place.glob(f"{pattern}/{_NAME}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(path.read_text(encoding="utf-8"))
            if os.name == "posix":
                os.kill(int(note["pid"]), 0)
            return Note(dict(note["progress"]), int(note["pid"]), bool(note["yields"]))
    return None
