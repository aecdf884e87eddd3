"""Install overlays: pip fills a folder beside the overlay, which replaces it when it is complete.

If several processes want the same overlay, the one that holds the lock installs it and the others wait for it.
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
from modules.core.product import LOG_FILE
from modules.loaders.overlay import STAMP, Overlay
from modules.setup import install_errors, progress_file
from modules.setup.build_progress import BuildProgress
from modules.setup.llama_cpp_build import LlamaBuild, NoCompiler, Phase, Report
from modules.setup.pip import POLL_SECONDS, Pip, PipFailed, Stopped
from modules.setup.progress_file import PeerInstallation, ProgressWriter
from modules.setup.rpc_build import STEPS, RpcBuild
from modules.system import file_lock

log = logging.getLogger(__name__)

State = Literal["absent", "waiting", "installing", "installed", "failed"]

CLOSE_SECONDS = 5.0
_SHOWN_LINES = 30


@dataclass(frozen=True)
class Installation:
    """The state of an overlay; "waiting" means that another process is installing it.

    While it is being installed: `done` of `total` packages or compiler steps, the last line of pip's output, and the
    estimated `seconds_left`. `error` is set after a failure.
    """

    state: State
    done: int = 0
    total: int = 0
    last_line: str = ""
    error: WebUIError | None = None
    phase: Phase = "fetching"
    seconds_left: float | None = None

    @property
    def in_progress(self) -> bool:
        return self.state in ("waiting", "installing")

    @property
    def progress_unknown(self) -> bool:
        """Whether another process is installing the overlay and has not reported its progress."""
        return self.state == "waiting" and not self.total and self.phase == "fetching"


@dataclass(eq=False)
class _Job:
    overlay: Overlay
    force: bool
    interruptible: bool
    current: Installation = Installation("installing")
    writer: ProgressWriter | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    outcome: Future[None] = field(default_factory=Future)

    def update(self, current: Installation) -> None:
        """Publish the progress to this process and to those that wait for the overlay."""
        self.current = current
        if self.writer is not None:
            self.writer.write({key: value for key, value in asdict(current).items() if key not in ("state", "error")})


class OverlayInstaller:
    """Owner of the installations of this process. Thread-safe; only `close` blocks.

    If `interruptible`, another process that waits for an installation of this one ends this one when it stops waiting.
    """

    def __init__(self, interruptible: bool = False) -> None:
        self._interruptible = interruptible
        self._jobs: dict[Overlay, _Job] = {}
        self._lock = threading.Lock()

    def start(self, overlay: Overlay, force: bool = False) -> None:
        """Install the overlay in the background unless it is installed or being installed; `force` reinstalls it."""
        with self._lock:
            job = self._jobs.get(overlay)
            if (job is not None and not job.outcome.done()) or (overlay.is_installed and not force):
                return
            job = self._jobs[overlay] = _Job(overlay, force, self._interruptible)
            thread = ThreadPoolExecutor(1, "install")
            job.outcome = thread.submit(_install, job)
        job.outcome.add_done_callback(_log_failure)
        thread.shutdown(wait=False)

    def cancel(self, overlay: Overlay) -> None:
        """Stop installing the overlay. Compiled files are kept for the next attempt."""
        with self._lock:
            job = self._jobs.get(overlay)
        if job is not None:
            job.stop.set()

    def status(self, overlay: Overlay) -> Installation:
        with self._lock:
            job = self._jobs.get(overlay)
        if job is not None and not job.outcome.done():
            return job.current
        failure = job.outcome.exception() if job is not None else None
        if failure is not None and not isinstance(failure, Stopped):
            return Installation("failed", error=failure if isinstance(failure, WebUIError) else InternalError(LOG_FILE))
        return Installation("installed" if overlay.is_installed else "absent")

    def close(self) -> None:
        """Cancel all installations and wait a few seconds until their files are cleaned up."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.stop.set()
        wait([job.outcome for job in jobs], CLOSE_SECONDS)


def _log_failure(outcome: Future[None]) -> None:
    failure = outcome.exception()
    if isinstance(failure, WebUIError):
        log.warning("%s", failure)
    elif failure is not None and not isinstance(failure, Stopped):
        log.error("an installation failed", exc_info=failure)


def _install(job: _Job) -> None:
    """Run one installation, on its own thread."""
    overlay, parent = job.overlay, job.overlay.folder.parent
    with _translated_errors(overlay):
        parent.mkdir(exist_ok=True)
        with _locked(parent / f".{overlay.name}.lock", job) as (lock, waited):
            if overlay.is_installed and (waited or not job.force):
                return
            for leftover in parent.glob(f".{overlay.name}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            _check_disk_space(overlay)
            work_folder = Path(tempfile.mkdtemp(prefix=f".{overlay.name}-", dir=parent))
            try:
                job.writer = ProgressWriter(work_folder, job.interruptible)
                job.update(Installation("installing"))
                fingerprint = overlay.fingerprint
                (work_folder / "tmp").mkdir()
                packages = work_folder / "packages"
                pip = Pip(sys.executable, work_folder / "tmp", job.stop, (lock,))
                _compile_library(job, packages, pip) if overlay.extends else _install_packages(job, packages, pip)
                (packages / STAMP).write_text(fingerprint, encoding="utf-8")
                _replace_overlay(overlay, work_folder)
            finally:
                shutil.rmtree(work_folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, job: _Job) -> Iterator[tuple[int, bool]]:
    """Yield the descriptor that holds the lock, and whether another process held it before."""
    descriptor, waited = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), False
    try:
        while not file_lock.try_acquire(descriptor):
            waited = True
            peer = progress_file.read(path.parent, f".{job.overlay.name}-*")
            job.update(_waiting_for(peer))
            if job.stop.wait(POLL_SECONDS):
                if peer is not None:
                    peer.interrupt()
                raise Stopped
        yield descriptor, waited
    finally:
        os.close(descriptor)


def _waiting_for(peer: PeerInstallation | None) -> Installation:
    """Return the state "waiting" with the progress that the other process reports, if any."""
    waiting = Installation("waiting")
    if peer is None:
        return waiting
    try:
        return replace(waiting, **peer.progress)  # type: ignore[arg-type]
    except TypeError:  # written by another version of this program
        return waiting


def _check_disk_space(overlay: Overlay) -> None:
    needed = overlay.megabytes * 3 // 2  # the packages, and what pip downloads and builds beside them
    needed += 0 if overlay.build_folder.exists() else overlay.build_megabytes
    folder = overlay.folder.parent
    free = shutil.disk_usage(folder).free // 10**6
    if free < needed:
        cause = {
            "en": f"{needed} MB of disk space are needed, but only {free} MB are free in {folder}.",
            "zh": f"需要 {needed} MB 磁盘空间，而 {folder} 所在磁盘只剩 {free} MB。",
        }
        raise InstallFailed(both(overlay.display_name), cause)


def _compile_library(job: _Job, target: Path, pip: Pip) -> None:
    """Compile the only library of the overlay into `target`."""
    overlay = job.overlay

    def report(phase: Phase, done: int) -> None:
        job.update(Installation("installing", done, STEPS if phase == "compiling" else 0, phase=phase))

    assert pip.temporary is not None
    installed = overlay.folder.parent / overlay.extends
    RpcBuild(overlay.compiled_pin, installed, pip.temporary, pip, job.stop, report).build(target)


def _install_packages(job: _Job, target: Path, pip: Pip) -> None:
    """Install the overlay's packages into `target` with pip, compiling first what has to be compiled."""
    overlay = job.overlay
    requirements, build = overlay.pins, None
    if overlay.compiled:
        build = LlamaBuild(overlay.compiled_pin, overlay.build_folder, pip, _reporter(job))
        requirements = [pin for pin in requirements if pin != overlay.compiled_pin] + [str(build.wheel())]
    total = overlay.package_count
    job.update(Installation("installing", 0, total))
    started = 0

    def read(line: str) -> None:
        nonlocal started
        started += line.startswith(("Collecting ", "Processing "))  # "Processing" for a local file
        fetched = total if line.startswith(("Building wheels", "Installing collected")) else max(started - 1, 0)
        done = max(job.current.done, min(fetched, total))
        job.update(Installation("installing", done, total, line.strip()))

    pip.run("install", "--no-deps", "--target", str(target), *requirements, "--progress-bar", "off", read=read)
    if build is not None:
        build.clean()


def _reporter(job: _Job) -> Report:
    """Return a function that publishes the progress of a build as the job's progress."""

    def report(phase: Phase, steps: BuildProgress | None, line: str) -> None:
        counts = (steps.done, steps.total) if steps is not None else (0, 0)
        seconds_left = steps.seconds_left if steps is not None else None
        job.update(Installation("installing", *counts, line, phase=phase, seconds_left=seconds_left))

    return report


def _replace_overlay(overlay: Overlay, work_folder: Path) -> None:
    """Move the new packages to their place; if that fails, the old ones stay."""
    old = work_folder / "old"
    if overlay.folder.exists():
        os.replace(overlay.folder, old)
    try:
        os.replace(work_folder / "packages", overlay.folder)
    except OSError:
        if old.exists():
            os.replace(old, overlay.folder)
        raise


@contextlib.contextmanager
def _translated_errors(overlay: Overlay) -> Iterator[None]:
    """Raise InstallFailed, with the cause if it is known, in place of lower-level errors."""
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
