"""One download job in memory: its record, the lock that makes it ours, and its active run."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from modules.downloads.disk import disk_errors
from modules.downloads.install_files import LOCK, InstallTarget
from modules.downloads.partial_file import recorded_bytes
from modules.downloads.record import ACTIVE_STATES, FINAL_STATES, JobRecord, State
from modules.downloads.run import DownloadRun
from modules.downloads.view import JobView, SpeedMeter, add_progress
from modules.system import file_lock


@dataclass
class Job:
    """A job as this process knows it.

    Several processes may share the folders of models. A job belongs to the process that holds the lock in its staging
    folder; `lock` is the descriptor of that lock, or -1. `next_state` is the state that the user has requested for when
    the active run has stopped. `done` is the number of bytes present while there is no run.
    """

    record: JobRecord
    target: InstallTarget
    lock: int = -1
    run: DownloadRun | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    next_state: State | None = None
    speed: SpeedMeter = field(default_factory=SpeedMeter)
    done: int = 0

    @property
    def ours(self) -> bool:
        return self.lock >= 0

    @property
    def final(self) -> bool:
        return self.record.state in FINAL_STATES

    @property
    def cancelling(self) -> bool:
        """Whether the active run is about to end and its files to be deleted."""
        return self.run is not None and self.next_state == "cancelled"

    def claim_new(self) -> bool:
        """Create the staging folder and lock it; False if another process holds it. Raises DiskFull or DiskRefused."""
        with disk_errors(self.target.root, 0):
            self.target.staging.mkdir(parents=True, exist_ok=True)
            lock = _try_lock(self.target.staging / LOCK)
        if lock is None:
            return False
        self.lock, self.stop, self.next_state, self.speed = lock, threading.Event(), None, SpeedMeter()
        return True

    def claim_existing(self) -> bool:
        """Keep other processes from the job until `release`; False if one of them holds it."""
        if not self.ours:
            try:
                lock = _try_lock(self.target.staging / LOCK)
            except OSError:  # no staging folder, so there is nothing to claim
                return True
            if lock is None:
                return False
            self.lock = lock
        return True

    def release(self) -> None:
        if self.ours:
            os.close(self.lock)
            self.lock = -1

    def is_held(self) -> bool:
        """Whether this or another process works at the job or has queued it."""
        if self.ours:
            return True
        if self.record.state not in ACTIVE_STATES:
            return False
        try:
            lock = _try_lock(self.target.staging / LOCK)
        except OSError:  # no staging folder
            return False
        if lock is None:
            return True
        os.close(lock)
        return False

    def view(self) -> JobView:
        record, run = self.record, self.run
        not_ours = not self.ours and record.state in ACTIVE_STATES
        elsewhere = not_ours and self.is_held()
        interrupted = not_ours and not elsewhere
        view = JobView(
            id=record.id,
            spec=record.spec,
            state="paused" if interrupted else record.state,
            folder=self.target.final,
            commit=record.commit,
            host=record.host,
            count=record.count,
            done=recorded_bytes(self.target.staging) if elsewhere else self.done,
            total=record.total,
            error=record.error,
            moved=record.moved,
            elsewhere=elsewhere,
            interrupted=interrupted,
        )
        return add_progress(view, run, self.speed.measure(run.received)) if run else view


def delete_if_empty(staging: Path) -> None:
    """Delete a staging folder that has nothing but its lock, unless a process holds that."""
    with contextlib.suppress(OSError):
        if {path.name for path in staging.iterdir()} != {LOCK}:
            return
        lock = _try_lock(staging / LOCK)
        if lock is not None:
            (staging / LOCK).unlink()
            staging.rmdir()
            os.close(lock)


def _try_lock(path: Path) -> int | None:
    """Lock the file at `path`, creating it, and return the descriptor that holds the lock; None if it is locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    if file_lock.try_acquire(descriptor):
        return descriptor
    os.close(descriptor)
    return None
