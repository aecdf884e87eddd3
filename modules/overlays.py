"""The installing of overlays: pip at work in a folder that takes its place when it is whole, and not before.

Several processes may want the same overlay: the one that holds the lock installs it, the others wait and find it there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modules import file_lock
from modules.errors import InstallFailed, InternalError, WebUIError, Words
from modules.overlay import STAMP, Overlay

log = logging.getLogger(__name__)

State = Literal["absent", "waiting", "installing", "whole", "failed"]

TAIL_LINES = 30
LOOK_SECONDS = 0.2
GRACE_SECONDS = 5.0
LOG = "logs/webui.log"

_FULL: Words = {"en": "the disk is full. Free some space and try again.", "zh": "磁盘已满。请腾出空间后重试。"}
_NO_NETWORK: Words = {
    "en": "the package index cannot be reached. Check the network, or name a PyPI mirror in PIP_INDEX_URL.",
    "zh": "无法访问软件包索引。请检查网络，或用环境变量 PIP_INDEX_URL 指定一个 PyPI 镜像。",
}
_NO_SUCH: Words = {
    "en": "the package index has nothing that suits this Python and machine.",
    "zh": "软件包索引中没有适合此 Python 和系统的版本。",
}
_UNNAMED: Words = {"en": "pip says why, below.", "zh": "原因见 pip 的原话："}
# The network first: when it is away, pip says at the end that it found no version either.
_CAUSES: tuple[tuple[str, Words], ...] = (
    (r"No space left on device|Errno 28\b|Disk quota exceeded", _FULL),
    (
        r"NewConnectionError|NameResolutionError|Failed to establish a new connection|ConnectTimeout|Read timed out"
        r"|ProxyError|SSLError|Network is unreachable|Connection refused|Connection aborted",
        _NO_NETWORK,
    ),
    (r"No matching distribution found", _NO_SUCH),
)


@dataclass(frozen=True)
class Installing:
    """How an overlay stands: `done` of `total` packages are fetched, what pip said last, why it was not installed."""

    state: State
    done: int = 0
    total: int = 0
    says: str = ""
    error: WebUIError | None = None

    @property
    def moving(self) -> bool:
        return self.state in ("waiting", "installing")


@dataclass(eq=False)
class _Job:
    overlay: Overlay
    again: bool
    now: Installing = Installing("installing")
    stop: threading.Event = field(default_factory=threading.Event)
    outcome: Future[None] = field(default_factory=Future)


class Overlays:
    """Owner of the installations of this process. Any thread may ask; no method but `close` waits for anything."""

    def __init__(self) -> None:
        self._jobs: dict[Overlay, _Job] = {}
        self._lock = threading.Lock()

    def begin(self, overlay: Overlay, again: bool = False) -> None:
        """Install it in the background unless it is whole, or although it is: `again`. What is under way goes on."""
        with self._lock:
            job = self._jobs.get(overlay)
            if (job is not None and not job.outcome.done()) or (overlay.whole and not again):
                return
            job = self._jobs[overlay] = _Job(overlay, again)
            thread = ThreadPoolExecutor(1, "install")
            job.outcome = thread.submit(_install, job)
        job.outcome.add_done_callback(_log_failure)
        thread.shutdown(wait=False)

    def cancel(self, overlay: Overlay) -> None:
        """Give up installing it; nothing is left of that."""
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
        if failure is not None and not isinstance(failure, _Stopped):
            return Installing("failed", error=failure if isinstance(failure, WebUIError) else InternalError(LOG))
        return Installing("whole" if overlay.whole else "absent")

    def close(self) -> None:
        """Give up all that is under way, and wait until it has been tidied away."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.stop.set()
        wait([job.outcome for job in jobs], GRACE_SECONDS)


class _Stopped(Exception):
    """Somebody has cancelled it."""


def _log_failure(outcome: Future[None]) -> None:
    failure = outcome.exception()
    if isinstance(failure, WebUIError):
        log.warning("%s", failure)
    elif failure is not None and not isinstance(failure, _Stopped):
        log.error("an installation failed", exc_info=failure)


def _install(job: _Job) -> None:
    """All of one installation, on its thread."""
    overlay, place = job.overlay, job.overlay.folder.parent
    with _disk_faults(overlay):
        place.mkdir(exist_ok=True)
        with _locked(place / f".{overlay.name}.lock", job) as (lock, waited):
            if overlay.whole and (waited or not job.again):
                return
            for left in place.glob(f".{overlay.name}-*"):
                shutil.rmtree(left, ignore_errors=True)
            _check_room(overlay)
            room = Path(tempfile.mkdtemp(prefix=f".{overlay.name}-", dir=place))
            try:
                fingerprint = overlay.fingerprint
                _run_pip(job, room, lock)
                (room / "packages" / STAMP).write_text(fingerprint, encoding="utf-8")
                _put_in_place(overlay, room)
            finally:
                shutil.rmtree(room, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, job: _Job) -> Iterator[tuple[int, bool]]:
    """The descriptor that holds the lock, and whether somebody else held it before."""
    descriptor, waited = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), False
    try:
        while not file_lock.taken(descriptor):
            job.now, waited = Installing("waiting"), True
            if job.stop.wait(LOOK_SECONDS):
                raise _Stopped
        yield descriptor, waited
    finally:
        os.close(descriptor)


def _check_room(overlay: Overlay) -> None:
    needed = overlay.megabytes * 3 // 2  # the packages, and what pip fetches and builds beside them
    free = shutil.disk_usage(overlay.folder.parent).free // 10**6
    if free < needed:
        place = overlay.folder.parent
        cause = {
            "en": f"{needed} MB of disk space are needed, and {free} MB are free in {place}.",
            "zh": f"需要 {needed} MB 磁盘空间，而 {place} 只剩 {free} MB。",
        }
        raise InstallFailed(overlay.name, cause)


def _run_pip(job: _Job, room: Path, lock: int) -> None:
    """Have pip fill `room`/packages. InstallFailed, or _Stopped."""
    said: deque[str] = deque(maxlen=TAIL_LINES)
    total, begun = job.overlay.packages, 0
    job.now = Installing("installing", 0, total)
    with _pip(job.overlay, room, lock) as child:
        threading.Thread(target=_end_if_stopped, args=(child, job.stop), daemon=True).start()
        assert child.stdout is not None
        for line in child.stdout:
            said.append(line.rstrip())
            begun += line.startswith(("Collecting ", "Processing "))  # the latter of a file on this machine
            fetched = total if line.startswith(("Building wheels", "Installing collected")) else max(begun - 1, 0)
            job.now = Installing("installing", max(job.now.done, min(fetched, total)), total, said[-1].strip())
    if job.stop.is_set():
        raise _Stopped
    if child.returncode:
        raise _failed(job.overlay, "\n".join(said))


def _pip(overlay: Overlay, room: Path, lock: int) -> subprocess.Popen[str]:
    (room / "tmp").mkdir()
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(room / "packages")]
    command += ["-r", str(overlay.requirements), "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    # What it unpacks goes to the same disk, and with all the rest if it is killed. A configuration that asks for --user
    # would be refused beside --target.
    own = {"TMPDIR": str(room / "tmp"), "PIP_USER": "0", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command,
        env=os.environ | own,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # it is ended with all that it has started
        pass_fds=() if os.name == "nt" else (lock,),  # should we be killed, nobody cleans up while it still writes
    )


def _end_if_stopped(child: subprocess.Popen[str], stop: threading.Event) -> None:
    while child.poll() is None:
        if stop.wait(LOOK_SECONDS):
            if os.name == "nt":
                child.kill()
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            return


def _failed(overlay: Overlay, words: str) -> InstallFailed:
    cause = next((cause for pattern, cause in _CAUSES if re.search(pattern, words)), _UNNAMED)
    return InstallFailed(overlay.name, cause, words)


def _put_in_place(overlay: Overlay, room: Path) -> None:
    if overlay.folder.exists():
        os.replace(overlay.folder, room / "old")
    os.replace(room / "packages", overlay.folder)


@contextlib.contextmanager
def _disk_faults(overlay: Overlay) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failed(overlay, str(error)) from error
