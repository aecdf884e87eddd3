"""The downloads of this program: they wait for each other, outlive every browser, and are taken up after a restart.

Several processes may look after the same folders; a job belongs to the one that holds the lock in its staging folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.core.errors import InternalError, WebUIError
from modules.core.product import LOG_FILE
from modules.downloads.install_files import LOCK, STAGING, Place
from modules.downloads.partial_file import check_room, disk_faults, there
from modules.downloads.record import WORKING, JobRecord, JobRecords, State, Wanted
from modules.downloads.retry import Pace
from modules.downloads.run import BranchMoved, Mirror, Run
from modules.downloads.segment import gentle
from modules.downloads.view import JobView, Speed, in_motion
from modules.hub.errors import DiskFull, DownloadError, DownloadNotFound, Stopped
from modules.hub.repository import Kind
from modules.hub.safe_paths import check_path
from modules.system import file_lock

log = logging.getLogger(__name__)

GIB = 1 << 30


@dataclass
class _Job:
    record: JobRecord
    place: Place
    lock: int = -1  # a descriptor, while the job is ours
    run: Run | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    wish: State | None = None  # what it is to become once it has stopped
    speed: Speed = field(default_factory=Speed)
    done: int = 0  # bytes, while it does not run

    @property
    def active(self) -> bool:
        return self.lock >= 0

    def release(self) -> None:
        if self.active:
            os.close(self.lock)
            self.lock = -1


class Downloads:
    """`folders` are those of models and of LoRAs. `mirrors` makes the hubs to ask, the first one first, for each go
    anew; they are closed after it. `at_once` jobs run, the others queue. `reserve` bytes of the disk are left free.

    Every method but `close` returns at once; DownloadError says why it cannot be done.
    """

    def __init__(
        self,
        folders: Mapping[Kind, Path],
        mirrors: Callable[[], Sequence[Mirror]],
        pace: Pace | None = None,
        at_once: int = 1,
        reserve: int = GIB,
    ) -> None:
        self._folders, self._mirrors = dict(folders), mirrors
        self._pace, self._at_once, self._reserve = pace or Pace(), at_once, reserve
        self._records = JobRecords(self._folders["model"] / STAGING / "jobs.json")
        self._stamp: tuple[int, ...] | None = None
        self._jobs: dict[str, _Job] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._listeners: list[Callable[[], None]] = []
        self._closing = False
        self._lock = threading.RLock()  # guards all of this; held for moments only

    def on_done(self, listener: Callable[[], None]) -> None:
        """Have it called, on the job's thread, whenever a download is complete and in its place."""
        self._listeners.append(listener)

    def start(self, wanted: Wanted) -> str:
        """The id of the job, which is an earlier one if that wants the same and is not done."""
        if wanted.target:
            check_path(wanted.target)
        with self._lock:
            self._look_around()
            for job in self._jobs.values():
                if job.record.wanted.same == wanted.same and job.record.state not in ("done", "cancelled"):
                    self._go_on(job)
                    return job.record.id
            job = self._known(JobRecord(secrets.token_hex(4), wanted))
            self._jobs[job.record.id] = job
            try:
                self._queue(job)
            except DownloadError:
                del self._jobs[job.record.id]
                raise
        return job.record.id

    def pause(self, job: str) -> None:
        """What is there of it stays."""
        self._end(job, "paused")

    def cancel(self, job: str) -> None:
        """What is there of it is deleted."""
        self._end(job, "cancelled")

    def resume(self, job: str, keep_commit: bool | None = None) -> None:
        """Go on. If the branch has moved, `keep_commit` says whether with the old commit or all anew with the new."""
        with self._lock:
            found = self._find(job)
            if found.record.state in ("done", "cancelled"):
                return
            if keep_commit is False:
                found.record = dataclasses.replace(found.record, commit="", keep=False)
            elif keep_commit:
                found.record = dataclasses.replace(found.record, keep=True)
            self._go_on(found)

    def forget(self, job: str) -> None:
        """No longer show one that is done or cancelled."""
        with self._lock:
            if self._find(job).record.state in ("done", "cancelled"):
                del self._jobs[job]

    def place(self, wanted: Wanted) -> Place:
        """Where the files of `wanted` go. UnsafeName."""
        if wanted.target:
            check_path(wanted.target)
        return Place(self._folders[wanted.kind], wanted.target, "", wanted.flat)

    def check_room(self, wanted: Wanted, lacking: int) -> None:
        """DiskFull if a job would find that `lacking` more bytes do not fit."""
        check_room(self._folders[wanted.kind], lacking, self._reserve)

    def snapshot(self) -> tuple[JobView, ...]:
        """All jobs, oldest first."""
        with self._lock:
            self._look_around()
            return tuple(self._view(each) for each in self._jobs.values())

    def close(self, seconds: float = 5) -> None:
        """Stop everything; the next start of the program finds it interrupted."""
        with self._lock:
            self._closing = True
            for job in self._jobs.values():
                job.stop.set()
                if job.active and not job.run:
                    job.release()
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(seconds)

    # -- whose job it is --------------------------------------------------------------------------------------------

    def _known(self, record: JobRecord) -> _Job:
        return _Job(
            record, Place(self._folders[record.wanted.kind], record.wanted.target, record.id, record.wanted.flat)
        )

    def _find(self, job: str) -> _Job:
        self._look_around()
        if job not in self._jobs:
            raise DownloadNotFound(job)
        return self._jobs[job]

    def _look_around(self) -> None:
        """Take notice of what other processes, or an earlier run of this one, have written down."""
        stamp = self._records.stamp
        if stamp == self._stamp:
            return
        self._stamp, told = stamp, self._records.read()
        for record in told.values():
            job = self._jobs.setdefault(record.id, self._known(record))
            if not job.active:
                job.record, job.done = record, there(job.place.staging)
        ended = ("done", "cancelled")
        gone = [key for key, job in self._jobs.items() if not job.active and key not in told]
        for key in gone:
            if self._jobs[key].record.state not in ended:
                del self._jobs[key]

    def _held(self, job: _Job) -> bool:
        """Whether somebody works at it, or will: we, or another process."""
        if job.active:
            return True
        if job.record.state not in WORKING:
            return False
        try:
            lock = _locked(job.place.staging / LOCK)
        except OSError:  # no such folder
            return False
        if lock is None:
            return True
        os.close(lock)
        return False

    def _go_on(self, job: _Job) -> None:
        """Unless somebody is at it already. What is just about to pause begins anew."""
        if job.run and job.wish == "paused":
            job.wish = "queued"
        elif not self._held(job):
            self._queue(job)

    def _queue(self, job: _Job) -> None:
        """Make the job ours, and run it when its turn comes."""
        with disk_faults(job.place.root, 0):
            job.place.staging.mkdir(parents=True, exist_ok=True)
            lock = _locked(job.place.staging / LOCK)
        if lock is None:  # another process was quicker
            return
        job.lock, job.stop, job.wish, job.speed = lock, threading.Event(), None, Speed()
        try:
            self._write(job, dataclasses.replace(job.record, state="queued", error=None, moved=""))
        except DownloadError:
            job.release()
            raise
        self._next()

    def _write(self, job: _Job, record: JobRecord) -> None:
        job.record = record
        self._records.put(record)

    # -- running ----------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Start what may run now."""
        if self._closing:
            return
        running = sum(1 for each in self._jobs.values() if each.run)
        idle = [each for each in self._jobs.values() if each.active and not each.run]
        queued = [each for each in idle if each.record.state != "cancelled"]  # that one is being deleted
        for job in queued[: max(0, self._at_once - running)]:
            self._run(job)

    def _run(self, job: _Job) -> None:
        job.run = Run(
            job.record,
            job.place,
            self._mirrors,
            self._pace,
            self._reserve,
            job.stop,
            lambda record: self._heard(job, record),
        )
        thread = threading.Thread(target=self._work, args=(job, job.run), name=f"download {job.record.id}", daemon=True)
        self._threads[job.record.id] = thread
        thread.start()

    def _heard(self, job: _Job, record: JobRecord) -> None:
        with self._lock:
            self._write(job, record)

    def _work(self, job: _Job, run: Run) -> None:
        gentle()
        state: State | None = "failed"
        facts: dict[str, Any] = {"error": InternalError(LOG_FILE)}
        try:
            state, facts = self._ending(job, run)
        finally:  # a fault of ours must not leave a job that seems to run
            if sys.exc_info()[0]:
                log.error("download %s of %s", job.record.id, job.record.wanted.repo, exc_info=True)
            self._conclude(job, run, state, facts)
        if state == "done":
            for listener in self._listeners:
                listener()

    def _conclude(self, job: _Job, run: Run, state: State | None, facts: dict[str, Any]) -> None:
        """Release the job in its final state. `state` is None if the run was stopped: the latest request decides.

        That is decided and, unless there are files to delete first, recorded under one hold of the lock: a `resume` or
        `cancel` just after a `pause` either counts here or finds the job released.
        """
        with self._lock:
            final = state or job.wish or run.record.state
            if final not in ("done", "cancelled"):
                self._leave(job, run, final, facts)
                return
        shutil.rmtree(job.place.staging, ignore_errors=True)  # slow, so without the lock
        with self._lock:
            self._leave(job, run, final, facts)

    def _leave(self, job: _Job, run: Run, state: State, facts: dict[str, Any]) -> None:
        """Record the final state, then start what may run now. The caller holds the lock."""
        self._settle(job, dataclasses.replace(run.record, state=state, **facts), run.done)
        del self._threads[job.record.id]
        if state == "queued" and not self._closing:
            self._queue_again(job)
        self._next()

    def _queue_again(self, job: _Job) -> None:
        """If it cannot be, the job says why, and does not keep the others waiting."""
        try:
            self._queue(job)
        except DownloadError as error:
            told = dataclasses.replace(job.record, state="paused", error=error.with_traceback(None))
            self._settle(job, told, job.done)

    def _ending(self, job: _Job, run: Run) -> tuple[State | None, dict[str, Any]]:
        """Run the job; return its final state, None if it was stopped, and the fields of its record that say more."""
        try:
            run.run()
        except BranchMoved as error:
            return "paused", {"moved": error.commit}
        except Stopped:
            return None, {}
        except DiskFull as error:
            return "paused", {"error": error.with_traceback(None)}
        except WebUIError as error:
            log.warning("download %s of %s: %s", run.record.id, run.record.wanted.repo, error)
            return "failed", {"error": error.with_traceback(None)}
        return "done", {}

    def _settle(self, job: _Job, record: JobRecord, done: int) -> None:
        """Write down how the job stands, and let go of it."""
        job.record, job.run, job.done = record, None, done
        with contextlib.suppress(DownloadError):  # a full disk: then it will be found interrupted
            if record.state in ("done", "cancelled"):
                self._records.remove(record.id)
            else:
                self._records.put(record)
        job.release()

    def _end(self, key: str, wish: State) -> None:
        with self._lock:
            job = self._find(key)
            if job.run:
                job.wish = wish
                job.stop.set()
                return
            if job.record.state in ("done", "cancelled") or not self._claimed(job):
                return
            ended = dataclasses.replace(job.record, state=wish)
            if wish != "cancelled":
                if job.record.state in WORKING:
                    self._settle(job, ended, job.done)
                else:
                    job.release()
                return
            job.record = ended
        shutil.rmtree(job.place.staging, ignore_errors=True)  # takes its time, and nobody is to wait for it
        with self._lock:
            self._settle(job, ended, job.done)

    def _claimed(self, job: _Job) -> bool:
        """Whether nobody else has the job, nor will have it until it is released."""
        if not job.active:
            try:
                lock = _locked(job.place.staging / LOCK)
            except OSError:  # no such folder: there is nothing to have
                return True
            if lock is None:
                return False
            job.lock = lock
        return True

    # -- what is shown ----------------------------------------------------------------------------------------------

    def _view(self, job: _Job) -> JobView:
        record, run = job.record, job.run
        abandoned = not job.active and record.state in WORKING
        elsewhere = abandoned and self._held(job)
        done = there(job.place.staging) if elsewhere else job.done
        view = JobView(
            id=record.id,
            wanted=record.wanted,
            state="paused" if abandoned and not elsewhere else record.state,
            folder=job.place.final,
            commit=record.commit,
            host=record.host,
            count=record.count,
            done=done,
            total=record.total,
            error=record.error,
            moved=record.moved,
            elsewhere=elsewhere,
            interrupted=abandoned and not elsewhere,
        )
        return in_motion(view, run, job.speed.of(run.received)) if run else view


def _locked(path: Path) -> int | None:
    """A descriptor that keeps everybody else from locking `path`, until it is closed; None if somebody does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    if file_lock.taken(descriptor):
        return descriptor
    os.close(descriptor)
    return None
