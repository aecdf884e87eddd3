"""Install overlays: pip fills a folder beside the overlay, which takes its place when it is complete.

Several processes may want the same overlay: the one that holds the lock installs it, the others wait and find it there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from modules.core.errors import InstallFailed, InternalError, WebUIError, Words, both
from modules.loaders.overlay import STAMP, Overlay
from modules.setup import install_errors, progress_file
from modules.setup.build_progress import BuildSteps
from modules.setup.llama_cpp_build import LlamaBuild, NoCompiler, Phase, Report
from modules.setup.pip import LOOK_SECONDS, Pip, PipFailed, Stopped
from modules.setup.progress_file import NoteWriter
from modules.system import file_lock

log = logging.getLogger(__name__)

State = Literal["absent", "waiting", "installing", "whole", "failed"]

GRACE_SECONDS = 5.0
LOG = "logs/webui.log"
_SHOWN_LINES = 30


@dataclass(frozen=True)
class Installing:
    """The state of an overlay. While it is installed: `done` of `total` packages or compiler steps, what pip said last,
    and by the pace so far the `seconds_left`; "waiting" if another process does so. After a failure, its `error`."""

    state: State
    done: int = 0
    total: int = 0
    says: str = ""
    error: WebUIError | None = None
    phase: Phase = "fetching"
    seconds_left: float | None = None

    @property
    def moving(self) -> bool:
        return self.state in ("waiting", "installing")

    @property
    def silent(self) -> bool:
        """Whether another process installs it and does not say how far it is."""
        return self.state == "waiting" and not self.total and self.phase == "fetching"


@dataclass(eq=False)
class _Job:
    overlay: Overlay
    again: bool
    yields: bool
    now: Installing = Installing("installing")
    note: NoteWriter | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    outcome: Future[None] = field(default_factory=Future)

    def show(self, now: Installing) -> None:
        """Let this process and those that wait for it see the progress."""
        self.now = now
        if self.note is not None:
            self.note.write({key: value for key, value in asdict(now).items() if key not in ("state", "error")})


class Overlays:
    """Owner of the installations of this process. Any thread may ask; no method but `close` waits for anything.

    Another process that waits for one of them and gives up may end this process if it `yields`.
    """

    def __init__(self, yields: bool = False) -> None:
        self._yields = yields
        self._jobs: dict[Overlay, _Job] = {}
        self._lock = threading.Lock()

    def begin(self, overlay: Overlay, again: bool = False) -> None:
        """Install it in the background unless it is whole, or although it is: `again`. What is under way goes on."""
        with self._lock:
            job = self._jobs.get(overlay)
            if (job is not None and not job.outcome.done()) or (overlay.whole and not again):
                return
            job = self._jobs[overlay] = _Job(overlay, again, self._yields)
            thread = ThreadPoolExecutor(1, "install")
            job.outcome = thread.submit(_install, job)
        job.outcome.add_done_callback(_log_failure)
        thread.shutdown(wait=False)

    def cancel(self, overlay: Overlay) -> None:
        """Stop installing it. What has been compiled is kept for the next time."""
        with self._lock:
            job = self._jobs.get(overlay)
        if job is not None:
            job.stop.set()

    def view(self, overlay: Overlay) -> Installing:
        with self._lock:
            job = self._jobs.get(overlay)
        if job is not None and not job.outcome.done():
            return job.now
        failure = job.outcome.exception() if job is not None else None
        if failure is not None and not isinstance(failure, Stopped):
            return Installing("failed", error=failure if isinstance(failure, WebUIError) else InternalError(LOG))
        return Installing("whole" if overlay.whole else "absent")

    def close(self) -> None:
        """Give up all that is under way, and wait until it has been tidied away."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.stop.set()
        wait([job.outcome for job in jobs], GRACE_SECONDS)


def _log_failure(outcome: Future[None]) -> None:
    failure = outcome.exception()
    if isinstance(failure, WebUIError):
        log.warning("%s", failure)
    elif failure is not None and not isinstance(failure, Stopped):
        log.error("an installation failed", exc_info=failure)


def _install(job: _Job) -> None:
    """Do all of one installation, on its thread."""
    overlay, place = job.overlay, job.overlay.folder.parent
    with _explained(overlay):
        place.mkdir(exist_ok=True)
        with _locked(place / f".{overlay.name}.lock", job) as (lock, waited):
            if overlay.whole and (waited or not job.again):
                return
            for left in place.glob(f".{overlay.name}-*"):
                shutil.rmtree(left, ignore_errors=True)
            _check_room(overlay)
            room = Path(tempfile.mkdtemp(prefix=f".{overlay.name}-", dir=place))
            try:
                job.note = NoteWriter(room, job.yields)
                job.show(Installing("installing"))
                fingerprint = overlay.fingerprint
                (room / "tmp").mkdir()
                _fill(job, room / "packages", Pip(sys.executable, room / "tmp", job.stop, (lock,)))
                (room / "packages" / STAMP).write_text(fingerprint, encoding="utf-8")
                _put_in_place(overlay, room)
            finally:
                shutil.rmtree(room, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, job: _Job) -> Iterator[tuple[int, bool]]:
    """Yield the descriptor that holds the lock, and whether somebody else held it before."""
    descriptor, waited = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), False
    try:
        while not file_lock.taken(descriptor):
            waited = True
            other = progress_file.read(path.parent, f".{job.overlay.name}-*")
            job.show(_followed(other))
            if job.stop.wait(LOOK_SECONDS):
                if other is not None:
                    other.interrupt()
                raise Stopped
        yield descriptor, waited
    finally:
        os.close(descriptor)


def _followed(other: progress_file.Note | None) -> Installing:
    """How the installation of another process goes, as far as it says so."""
    waiting = Installing("waiting")
    if other is None:
        return waiting
    try:
        return replace(waiting, **other.progress)  # type: ignore[arg-type]
    except TypeError:  # another version of this program
        return waiting


def _check_room(overlay: Overlay) -> None:
    needed = overlay.megabytes * 3 // 2  # the packages, and what pip fetches and builds beside them
    needed += 0 if overlay.build_folder.exists() else overlay.build_megabytes
    free = shutil.disk_usage(overlay.folder.parent).free // 10**6
    if free < needed:
        place = overlay.folder.parent
        cause = {
            "en": f"{needed} MB of disk space are needed, and {free} MB are free in {place}.",
            "zh": f"需要 {needed} MB 磁盘空间，而 {place} 只剩 {free} MB。",
        }
        raise InstallFailed(both(overlay.display_name), cause)


def _fill(job: _Job, target: Path, pip: Pip) -> None:
    """Have pip install the overlay's packages into `target`; what has to be compiled, before the others."""
    overlay = job.overlay
    wanted, build = overlay.pins, None
    if overlay.compiled:
        build = LlamaBuild(overlay.compiled_pin, overlay.build_folder, pip, _reporter(job))
        wanted = [pin for pin in wanted if pin != overlay.compiled_pin] + [str(build.wheel())]
    job.show(Installing("installing", 0, overlay.packages))
    begun = 0

    def read(line: str) -> None:
        nonlocal begun
        begun += line.startswith(("Collecting ", "Processing "))  # the latter of a file on this machine
        total = overlay.packages
        fetched = total if line.startswith(("Building wheels", "Installing collected")) else max(begun - 1, 0)
        job.show(Installing("installing", max(job.now.done, min(fetched, total)), total, line.strip()))

    pip.run("install", "--no-deps", "--target", str(target), *wanted, "--progress-bar", "off", read=read)
    if build is not None:
        build.clean()


def _reporter(job: _Job) -> Report:
    """Show the stages of a build in the job's state."""

    def report(phase: Phase, steps: BuildSteps | None, says: str) -> None:
        counted = (steps.done, steps.total) if steps is not None else (0, 0)
        left = steps.seconds_left if steps is not None else None
        job.show(Installing("installing", *counted, says, phase=phase, seconds_left=left))

    return report


def _put_in_place(overlay: Overlay, room: Path) -> None:
    if overlay.folder.exists():
        os.replace(overlay.folder, room / "old")
    os.replace(room / "packages", overlay.folder)


@contextlib.contextmanager
def _explained(overlay: Overlay) -> Iterator[None]:
    """Turn what went wrong into an error with a cause that is known."""
    try:
        yield
    except PipFailed as failure:
        raise _failed(overlay, failure.output) from failure
    except NoCompiler as failure:
        raise InstallFailed(both(overlay.display_name), install_errors.NO_COMPILER) from failure
    except OSError as error:
        raise _failed(overlay, str(error)) from error


def _failed(overlay: Overlay, output: str) -> InstallFailed:
    cause: Words = install_errors.explain(output) or install_errors.UNKNOWN
    return InstallFailed(both(overlay.display_name), cause, "\n".join(output.splitlines()[-_SHOWN_LINES:]))
