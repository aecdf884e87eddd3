"""Queue and run download jobs, which outlive every browser page and can be resumed after a restart.

Several processes may manage the same folders; `modules.downloads.job` says which of them a job belongs to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.core.errors import InternalError, WebUIError
from modules.core.product import LOG_FILE
from modules.downloads.context import GIB, DownloadContext, Mirror, TransferOptions
from modules.downloads.disk import check_space
from modules.downloads.errors import DiskFull, DownloadNotFound
from modules.downloads.install_files import STAGING, InstallTarget
from modules.downloads.job import Job, delete_if_empty
from modules.downloads.partial_file import recorded_bytes
from modules.downloads.record import ACTIVE_STATES, FINAL_STATES, DownloadSpec, JobRecord, JobStore, State
from modules.downloads.run import BranchMoved, DownloadRun
from modules.downloads.segment import lower_thread_priority
from modules.downloads.view import JobView
from modules.hub.errors import DownloadError, Stopped
from modules.hub.repository import Kind
from modules.hub.safe_paths import check_path
from modules.system.leftovers import sweep

log = logging.getLogger(__name__)


class DownloadManager:
    """Owns all download jobs. Thread-safe; every method but `close` returns at once.

    `folders` are those of models and LoRAs. `open_mirrors` and `reserve` are those of `DownloadContext`. At most
    `max_running` jobs run at once; the others are queued. Methods raise DownloadError if a job cannot be changed.
    """

    def __init__(
        self,
        folders: Mapping[Kind, Path],
        open_mirrors: Callable[[], Sequence[Mirror]],
        options: TransferOptions | None = None,
        max_running: int = 1,
        reserve: int = GIB,
    ) -> None:
        self._folders, self._max_running = dict(folders), max_running
        self._context = DownloadContext(open_mirrors, options or TransferOptions(), reserve)
        self._store = JobStore(self._folders["model"] / STAGING / "jobs.json")
        self._store_version: tuple[int, ...] | None = None
        self._jobs: dict[str, Job] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._done_listeners: list[Callable[[], None]] = []
        self._closing = False
        self._lock = threading.RLock()  # guards all of the above; held for moments only

    def on_done(self, listener: Callable[[], None]) -> None:
        """Call `listener`, on the job's thread, whenever a download has been installed."""
        self._done_listeners.append(listener)

    # -- what users do ---------------------------------------------------------------------------------------------

    def start(self, spec: DownloadSpec) -> str:
        """Start a download, or continue an unfinished one of the same spec, and return the job's id."""
        if spec.target:
            check_path(spec.target)
        with self._lock:
            self._refresh()
            for job in self._jobs.values():
                if job.record.spec.identity == spec.identity and not job.final and not job.cancelling:
                    self._continue(job)
                    return job.record.id
            job = self._new_job(JobRecord(secrets.token_hex(4), spec))
            self._jobs[job.record.id] = job
            try:
                self._queue(job)
            except DownloadError:
                del self._jobs[job.record.id]
                raise
        return job.record.id

    def pause(self, job_id: str) -> None:
        """Stop a job and keep what has been downloaded."""
        with self._lock:
            job = self._find(job_id)
            if job.run:
                self._stop_run(job, "paused")
            elif not job.final and job.claim_existing():
                if job.record.state in ACTIVE_STATES:
                    self._record_stop(job, dataclasses.replace(job.record, state="paused"), job.done)
                else:
                    job.release()

    def cancel(self, job_id: str) -> None:
        """Stop a job and delete what has been downloaded."""
        with self._lock:
            job = self._find(job_id)
            if job.run:
                self._stop_run(job, "cancelled")
                return
            if job.final or not job.claim_existing():
                return
            job.record = dataclasses.replace(job.record, state="cancelled")
        shutil.rmtree(job.target.staging, ignore_errors=True)  # without the lock: it may take long
        with self._lock:
            self._record_stop(job, job.record, job.done)

    def resume(self, job_id: str, keep_commit: bool | None = None) -> None:
        """Continue a job.

        If the branch has moved, `keep_commit` chooses between the old commit (True) and starting anew with the new one
        (False).
        """
        with self._lock:
            job = self._find(job_id)
            if job.final:
                return
            if keep_commit is False:
                job.record = dataclasses.replace(job.record, commit="", keep=False)
            elif keep_commit:
                job.record = dataclasses.replace(job.record, keep=True)
            self._continue(job)

    def forget(self, job_id: str) -> None:
        """Remove a job that is done or cancelled from the list."""
        with self._lock:
            if self._find(job_id).final:
                del self._jobs[job_id]

    def snapshot(self) -> tuple[JobView, ...]:
        """Return all jobs, oldest first."""
        with self._lock:
            self._refresh()
            return tuple(job.view() for job in self._jobs.values())

    def install_target(self, spec: DownloadSpec) -> InstallTarget:
        """Return where the files of `spec` go. Raises UnsafeName."""
        if spec.target:
            check_path(spec.target)
        return InstallTarget(self._folders[spec.kind], spec.target, "", spec.flat)

    def check_space(self, spec: DownloadSpec, missing: int) -> None:
        """Raise DiskFull if `missing` more bytes of `spec` would not fit."""
        check_space(self._folders[spec.kind], missing, self._context.reserve)

    def sweep(self) -> None:
        """Delete empty staging folders: their process was killed before it could record the job.

        Those with data are kept, for a record may be that of another program which shares the folder.
        """
        with self._lock:
            sweep(self._store.path.parent, [self._store.path.name])
            known = {*self._store.read(), *self._jobs}
            for folder in {root / STAGING for root in self._folders.values()}:
                for staging in sorted(folder.iterdir()) if folder.is_dir() else ():
                    if staging.name not in known and staging.is_dir() and not staging.is_symlink():
                        delete_if_empty(staging)

    def close(self, seconds: float = 5) -> None:
        """Stop all jobs, waiting up to `seconds` for each; the next start of the program shows them as interrupted."""
        with self._lock:
            self._closing = True
            for job in self._jobs.values():
                job.stop.set()
                if job.ours and not job.run:
                    job.release()
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(seconds)

    def delete_store(self) -> None:
        """Delete the folder of jobs under way if there are none. To be called after `close`."""
        self._store.delete_if_empty()

    # -- the list of jobs ------------------------------------------------------------------------------------------

    def _new_job(self, record: JobRecord) -> Job:
        spec = record.spec
        return Job(record, InstallTarget(self._folders[spec.kind], spec.target, record.id, spec.flat))

    def _find(self, job_id: str) -> Job:
        self._refresh()
        if job_id not in self._jobs:
            raise DownloadNotFound(job_id)
        return self._jobs[job_id]

    def _refresh(self) -> None:
        """Read what other processes, or an earlier run of this program, have recorded."""
        version = self._store.version
        if version == self._store_version:
            return
        self._store_version, records = version, self._store.read()
        for record in records.values():
            job = self._jobs.setdefault(record.id, self._new_job(record))
            if not job.ours:
                job.record, job.done = record, recorded_bytes(job.target.staging)
        removed = [job_id for job_id, job in self._jobs.items() if not job.ours and job_id not in records]
        for job_id in removed:
            if not self._jobs[job_id].final:
                del self._jobs[job_id]

    def _save(self, job: Job, record: JobRecord) -> None:
        with self._lock:
            job.record = record
            self._store.put(record)

    # -- the queue -------------------------------------------------------------------------------------------------

    def _continue(self, job: Job) -> None:
        """Queue the job unless it is held already. A run that is about to pause is queued again when it has stopped."""
        if job.run and job.next_state == "paused":
            job.next_state = "queued"
        elif not job.is_held():
            self._queue(job)

    def _queue(self, job: Job) -> None:
        """Claim the job, and run it when its turn comes."""
        if not job.claim_new():
            return
        try:
            self._save(job, dataclasses.replace(job.record, state="queued", error=None, moved=""))
        except DownloadError:
            job.release()
            raise
        self._start_queued()

    def _queue_again(self, job: Job) -> None:
        """Queue the job; if that fails, pause it with the error, so that it does not block the queue."""
        try:
            self._queue(job)
        except DownloadError as error:
            record = dataclasses.replace(job.record, state="paused", error=error.with_traceback(None))
            self._record_stop(job, record, job.done)

    def _start_queued(self) -> None:
        """Start as many queued jobs as may run."""
        if self._closing:
            return
        running = sum(1 for job in self._jobs.values() if job.run)
        idle = [job for job in self._jobs.values() if job.ours and not job.run]
        queued = [job for job in idle if job.record.state != "cancelled"]  # a cancelled one is being deleted
        for job in queued[: max(0, self._max_running - running)]:
            self._start_run(job)

    def _start_run(self, job: Job) -> None:
        run = DownloadRun(self._context, job.record, job.target, job.stop, lambda record: self._save(job, record))
        name = f"download {job.record.id}"
        thread = threading.Thread(target=self._work, args=(job, run), name=name, daemon=True)
        job.run = run
        self._threads[job.record.id] = thread
        thread.start()

    def _stop_run(self, job: Job, next_state: State) -> None:
        job.next_state = next_state
        job.stop.set()

    # -- a job's thread --------------------------------------------------------------------------------------------

    def _work(self, job: Job, run: DownloadRun) -> None:
        lower_thread_priority()
        state: State | None = "failed"
        facts: dict[str, Any] = {"error": InternalError(LOG_FILE)}
        try:
            state, facts = self._execute(job, run)
        finally:  # an unexpected exception must not leave a job that seems to run
            if sys.exc_info()[0]:
                log.error("download %s of %s", job.record.id, job.record.spec.repo, exc_info=True)
            self._conclude(job, run, state, facts)
        if state == "done":
            for listener in self._done_listeners:
                listener()

    def _execute(self, job: Job, run: DownloadRun) -> tuple[State | None, dict[str, Any]]:
        """Execute the run; return its final state, None if it was stopped, and further fields of the job's record."""
        try:
            run.run()
        except BranchMoved as error:
            return "paused", {"moved": error.commit}
        except Stopped:
            return None, {}
        except DiskFull as error:
            return "paused", {"error": error.with_traceback(None)}
        except WebUIError as error:
            log.warning("%s: %s", run.record.spec.repo, error)
            return "failed", {"error": error.with_traceback(None)}
        return "done", {}

    def _conclude(self, job: Job, run: DownloadRun, state: State | None, facts: dict[str, Any]) -> None:
        """Release the job in its final state. `state` is None if the run was stopped: the latest request decides.

        That is decided and, unless there are files to delete first, recorded under one hold of the lock: a `resume` or
        `cancel` just after a `pause` either counts here or finds the job released.
        """
        with self._lock:
            final = state or job.next_state or run.record.state
            if final not in FINAL_STATES:
                self._leave(job, run, final, facts)
                return
        shutil.rmtree(job.target.staging, ignore_errors=True)  # slow, so without the lock
        with self._lock:
            self._leave(job, run, final, facts)

    def _leave(self, job: Job, run: DownloadRun, state: State, facts: dict[str, Any]) -> None:
        """Record the final state, then start the queued jobs that may run now. The caller holds the lock."""
        self._record_stop(job, dataclasses.replace(run.record, state=state, **facts), run.done)
        del self._threads[job.record.id]
        if state == "queued" and not self._closing:
            self._queue_again(job)
        self._start_queued()

    def _record_stop(self, job: Job, record: JobRecord, done: int) -> None:
        """Record the state of a job that has stopped, and release it."""
        job.record, job.run, job.done = record, None, done
        with contextlib.suppress(DownloadError):  # on a full disk; the job will be found interrupted
            if job.final:
                self._store.remove(record.id)
            else:
                self._store.put(record)
        job.release()
