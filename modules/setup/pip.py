"""Run pip as a child process: its output line by line, and an end with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 0.2
GRACE_SECONDS = 2.0
TAIL_LINES = 200
LINE_CHARACTERS = 300
_COMMON = ("--disable-pip-version-check", "--no-input")


class Stopped(Exception):
    """The run was ended on request."""


class PipFailed(Exception):
    """pip ended with an error; `output` is the end of what it printed."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output


@dataclass(frozen=True)
class Pip:
    """pip of the interpreter `python`.

    `temporary` is where it unpacks: on the same disk as the result, and removed with it after a kill. Setting `stop`
    ends a run. `keep_open` are descriptors that the child inherits, such as a lock: if this process is killed, the
    lock is held until the child has ended. The output is added to the file `log`.
    """

    python: str
    temporary: Path | None = None
    stop: threading.Event | None = None
    keep_open: tuple[int, ...] = ()
    log: Path | None = None

    def run(
        self,
        *arguments: str,
        read: Callable[[str], None] | None = None,
        environment: Mapping[str, str] | None = None,
        niceness: int = 0,
    ) -> list[str]:
        """Run one command of pip and return the last lines of its output. PipFailed, or Stopped.

        `read` gets each line. A positive `niceness` leaves the processor to others.
        """
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self.log.open("a", encoding="utf-8")) if self.log else None
            child = stack.enter_context(self._start(arguments, environment or {}))
            stack.callback(_kill, child)  # an interruption must not leave it running
            if niceness and os.name == "posix":
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PGRP, child.pid, niceness)
            if self.stop is not None:
                threading.Thread(target=_kill_on_stop, args=(child, self.stop), daemon=True).start()
            assert child.stdout is not None
            for line in child.stdout:
                if log is not None:
                    log.write(line)
                tail.append(line.rstrip()[:LINE_CHARACTERS])
                if read is not None:
                    read(line.rstrip())
            child.wait()
        if self.stop is not None and self.stop.is_set():
            raise Stopped
        if child.returncode:
            raise PipFailed("\n".join(tail))
        return list(tail)

    def _start(self, arguments: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.Popen[str]:
        # A configuration that asks for --user would be refused beside --target and inside a virtual environment.
        own = {"PIP_USER": "0", "PYTHONUNBUFFERED": "1"}
        if self.temporary is not None:
            own["TMPDIR"] = str(self.temporary)
        return subprocess.Popen(
            [self.python, "-m", "pip", *arguments, *_COMMON],
            env={**os.environ, **own, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # it is ended with all that it has started
            pass_fds=() if os.name == "nt" else self.keep_open,
        )


def _kill_on_stop(child: subprocess.Popen[str], stop: threading.Event) -> None:
    while child.poll() is None:
        if stop.wait(LOOK_SECONDS):
            _kill(child)
            return


def _kill(child: subprocess.Popen[str]) -> None:
    """End the child and its descendants, unless it has ended.

    An interrupt comes first: ninja, whose compilers are in process groups of their own, ends them then and removes what
    they have written half. What is left of the child's session is killed.
    """
    if child.poll() is not None:
        return
    if os.name == "nt":
        child.kill()
        return
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
            break
    for pid in _session(child.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _session(leader: int) -> list[int]:
    """The processes of a session, where the system lists them in /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(folder.name)) == leader:
                found.append(int(folder.name))
    return found
