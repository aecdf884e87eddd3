"""Progress of an installation as a JSON file, for other processes that wait for the same overlay."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.downloads.disk import replace_file

_NAME = "progress.json"
_MIN_INTERVAL_SECONDS = 0.5
_VOLATILE = ("last_line", "seconds_left")
"""Fields that change with every line of pip's output."""


class ProgressWriter:
    """Writes the progress file of this process into the folder of its installation.

    `interruptible` allows other processes to end this one.
    """

    def __init__(self, folder: Path, interruptible: bool) -> None:
        self._path = folder / _NAME
        self._interruptible = interruptible
        self._written_at = 0.0
        self._last_counts: Mapping[str, object] = {}

    def write(self, progress: Mapping[str, object]) -> None:
        """Write the progress, at most twice a second unless a count has changed. Ignores errors of the file system."""
        now, counts = time.monotonic(), {key: value for key, value in progress.items() if key not in _VOLATILE}
        if counts == self._last_counts and now - self._written_at < _MIN_INTERVAL_SECONDS:
            return
        self._written_at, self._last_counts = now, counts
        content = {"pid": os.getpid(), "interruptible": self._interruptible, "progress": progress}
        with contextlib.suppress(OSError):
            replace_file(self._path, json.dumps(content).encode())


@dataclass(frozen=True)
class PeerInstallation:
    """Installation by another process that is running, as read from its progress file."""

    progress: Mapping[str, object]
    pid: int
    interruptible: bool

    def interrupt(self) -> None:
        """End the process if it is interruptible."""
        if self.interruptible and os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGINT)


def read(parent: Path, pattern: str) -> PeerInstallation | None:
    """Return the installation in a folder of `parent` that matches `pattern`; None if none is running."""
    for path in parent.glob(f"{pattern}/{_NAME}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if os.name == "posix":
                os.kill(int(content["pid"]), 0)  # raises OSError if the process has ended
            return PeerInstallation(dict(content["progress"]), int(content["pid"]), bool(content["interruptible"]))
    return None
