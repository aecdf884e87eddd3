"""Run pip as a child process: read its output line by line, and end it together with its descendants."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.system import supervisor
from modules.system.child_process import supervised

POLL_SECONDS = 0.2
EXIT_SECONDS = 2 * supervisor.EXIT_SECONDS
TAIL_LINES = 200
MAX_LINE_LENGTH = 300
_COMMON_ARGUMENTS = ("--disable-pip-version-check", "--no-input")


class Stopped(Exception):
    """The run was stopped on request."""


class PipFailed(Exception):
    """pip ended with an error; `output` is the end of what it printed."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output


@dataclass(frozen=True)
class Pip:
    """pip of one Python interpreter.

    Attributes:
        python: Path of the interpreter.
        temporary: Folder for temporary files, on the same disk as the result and removed with it after a kill.
        stop: Event that ends a run.
        inherited_descriptors: Descriptors that the child inherits, such as a lock: if this process is killed, the lock
            is held until the child has ended.
        log: File to which the output is appended.
    """

    python: str
    temporary: Path | None = None
    stop: threading.Event | None = None
    inherited_descriptors: tuple[int, ...] = ()
    log: Path | None = None

    def run(
        self,
        *arguments: str,
        read: Callable[[str], None] | None = None,
        environment: Mapping[str, str] | None = None,
        niceness: int = 0,
    ) -> list[str]:
        """Run a pip command and return the last lines of its output.

        `read` is called with every line. A positive `niceness` lowers the priority of the child. Raises PipFailed, or
        Stopped if `stop` is set.
        """
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self.log.open("a", encoding="utf-8")) if self.log else None
            child = stack.enter_context(self._start(arguments, environment or {}))
            stack.callback(_kill, child)  # also on KeyboardInterrupt
            if niceness and os.name == "posix":
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PGRP, child.pid, niceness)
            if self.stop is not None:
                threading.Thread(target=_kill_on_stop, args=(child, self.stop), daemon=True).start()
            assert child.stdout is not None
            for line in child.stdout:
                if log is not None:
                    log.write(line)
                tail.append(line.rstrip()[:MAX_LINE_LENGTH])
                if read is not None:
                    read(line.rstrip())
            child.wait()
        if self.stop is not None and self.stop.is_set():
            raise Stopped
        if child.returncode:
            raise PipFailed("\n".join(tail))
        return list(tail)

    def _start(self, arguments: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.Popen[str]:
        # pip rejects a configured --user together with --target, and inside a virtual environment.
        own = {"PIP_USER": "0", "PYTHONUNBUFFERED": "1"}
        if not sys.dont_write_bytecode:
            # Compiling all of the packages takes longer than the rest of an installation; Python compiles the few
            # modules that are used when it first imports them. (PIP_NO_COMPILE=1 would mean the opposite.)
            own["PIP_COMPILE"] = "0"
        if self.temporary is not None:
            own["TMPDIR"] = str(self.temporary)
        return subprocess.Popen(
            supervised([self.python, "-m", "pip", *arguments, *_COMMON_ARGUMENTS]),
            env={**os.environ, **own, **environment},
            stdin=subprocess.PIPE,  # for the supervisor: whatever ends this process closes it
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that its descendants can be ended too
            pass_fds=() if os.name == "nt" else self.inherited_descriptors,
        )


def _kill_on_stop(child: subprocess.Popen[str], stop: threading.Event) -> None:
    while child.poll() is None:
        if stop.wait(POLL_SECONDS):
            _kill(child)
            return


def _kill(child: subprocess.Popen[str]) -> None:
    """Let the supervisor end pip and its descendants."""
    assert child.stdin is not None
    with contextlib.suppress(OSError):
        child.stdin.close()
    try:
        child.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
