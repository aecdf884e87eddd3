"""Snapshot of a download job, as the page polls it twice a second."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import WebUIError
from modules.downloads.record import DownloadSpec, State
from modules.downloads.run import DownloadRun
from modules.hub.errors import DownloadError

SPEED_WINDOW_SECONDS = 10.0


@dataclass(frozen=True)
class JobView:
    """A job at one moment.

    `done` and `total` are in bytes. `speed` is in bytes per second over the last ten seconds, None if nothing came;
    `seconds_left` follows from it. `file` is number `index` of `count`. Everything goes to `folder`.

    `waiting` is why nothing arrives for `wait_seconds` more. `moved` is the commit that the branch points to now, if
    that differs from the one the download started with: `DownloadManager.resume` then needs the user's choice.
    `elsewhere`: another process works at the job. `interrupted`: the program ended while it worked at the job.
    """

    id: str
    spec: DownloadSpec
    state: State
    folder: Path
    commit: str = ""
    host: str = ""
    done: int = 0
    total: int = 0
    speed: float | None = None
    seconds_left: float | None = None
    file: str = ""
    index: int = 0
    count: int = 0
    waiting: DownloadError | None = None
    wait_seconds: float = 0
    attempt: int = 0
    attempts: int = 0
    error: WebUIError | None = None
    moved: str = ""
    elsewhere: bool = False
    interrupted: bool = False


class SpeedMeter:
    """Measures the speed over a sliding window, from byte counts read at arbitrary times."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def measure(self, received: int) -> float | None:
        """Add a sample of the total bytes received, and return bytes per second, or None if nothing came."""
        now = time.monotonic()
        self._samples.append((now, received))
        while len(self._samples) > 2 and self._samples[1][0] <= now - SPEED_WINDOW_SECONDS:
            self._samples.popleft()
        since, before = self._samples[0]
        return (received - before) / (now - since) if now > since and received > before else None


def add_progress(view: JobView, run: DownloadRun, speed: float | None) -> JobView:
    """Return `view` with the progress of the active `run`."""
    waiting, done = run.waiting, run.done
    return dataclasses.replace(
        view,
        state="verifying" if run.verifying and view.state == "downloading" else view.state,
        done=done,
        speed=speed,
        seconds_left=max(0, view.total - done) / speed if speed else None,
        file=run.file,
        index=run.index,
        waiting=waiting.error if waiting else None,
        wait_seconds=max(0.0, waiting.until - time.monotonic()) if waiting else 0,
        attempt=waiting.attempt if waiting else 0,
        attempts=waiting.attempts if waiting else 0,
    )
