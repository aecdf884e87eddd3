"""How a download stands, as a page shows it that asks twice a second."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import WebUIError
from modules.downloads.record import State, Wanted
from modules.downloads.run import Run
from modules.hub.errors import DownloadError

WINDOW_SECONDS = 10.0


@dataclass(frozen=True)
class JobView:
    """A download as it is now. `done` and `total` are bytes; `speed` is bytes a second over the last ten, None if
    nothing came; `seconds_left` follows from it. File `index` of `count` is `file`. `folder` is where it all goes.

    `waiting` is why nothing comes, for `wait_seconds` more. `moved` is the commit that the branch has now if it is
    another than the download began with: `resume` wants to know which. `elsewhere`: another process works at it.
    `interrupted`: it was being worked at when the program ended.
    """

    id: str
    wanted: Wanted
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


class Speed:
    """Of what was received, by when it was asked for."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def of(self, received: int) -> float | None:
        now = time.monotonic()
        self._seen.append((now, received))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        return (received - before) / (now - since) if now > since and received > before else None


def in_motion(view: JobView, run: Run, speed: float | None) -> JobView:
    """`view` of a job that runs."""
    waiting, done = run.waiting, run.done
    return dataclasses.replace(
        view,
        state="verifying" if run.checked and view.state == "downloading" else view.state,
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
