"""Run code that handles files of strangers in a child process with limits of time, memory and output."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from modules.system import child_process, limited_child
from modules.system.cancellation import on_cancel
from modules.system.limited_child import OUT_OF_MEMORY, OUTPUT_TOO_LARGE
from modules.system.watchdog import Watchdog

__all__ = ["OUTPUT_TOO_LARGE", "OUT_OF_MEMORY", "LimitedProcess", "Limits", "ProcessEnded"]

_NICENESS = 5
"""A request that computes until it is stopped should leave the processors to the models."""
_WATCHDOG = Watchdog()
_INHERITED = ("LD_LIBRARY_PATH", "SYSTEMROOT", "TZ")  # no secrets, such as HF_TOKEN


@dataclass(frozen=True)
class Limits:
    """The limits of one request. Memory is that of the whole process."""

    seconds: int
    memory_bytes: int
    output_bytes: int


class ProcessEnded(Exception):
    """The process ended before it answered. `code` is OUT_OF_MEMORY, OUTPUT_TOO_LARGE or another exit code."""

    def __init__(self, code: int, timed_out: bool) -> None:
        super().__init__(code)
        self.code, self.timed_out = code, timed_out


class LimitedProcess:
    """One child process, for one request at a time. See `limited_child` for what `program` has to define."""

    def __init__(self, program: Path, limits: Limits) -> None:
        self._limits = limits
        # The child's own alarm comes later than ours: it is for the case that this process has ended.
        numbers = (limits.memory_bytes, limits.seconds + 1, limits.output_bytes, os.getpid())
        self._child = child_process.start(
            [sys.executable, "-I", str(Path(limited_child.__file__)), str(program), *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=program.parent,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            start_new_session=True,  # Ctrl-C in the terminal reaches the server only
        )
        if sys.platform != "win32":
            os.setpriority(os.PRIO_PROCESS, self._child.pid, os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)

    def ask(self, request: bytes) -> bytes:
        """Return the answer to a request; both are one line. Raises ProcessEnded, after which the process is gone.

        Cancelling the work that asks ends the process, too.
        """
        assert self._child.stdin is not None and self._child.stdout is not None
        with on_cancel(self._child.kill), _WATCHDOG.watch(self._child.kill, self._limits.seconds) as watched:
            try:
                self._child.stdin.write(request)
                self._child.stdin.flush()
                answer: bytes = self._child.stdout.readline(self._limits.output_bytes + 1)
            except OSError:  # it has ended
                answer = b""
        if not answer.endswith(b"\n"):
            self.kill()
            raise ProcessEnded(self._child.returncode, watched.timed_out)
        return answer

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # a request that was never read
                    pipe.close()
