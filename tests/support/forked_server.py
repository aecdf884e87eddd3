"""Start server.py as a fork of a process that has already imported its modules.

Importing them takes 3 s of CPU time, more than the rest of a start. `python -m tests.support.forked_server` is that
process: it reads requests, one JSON object per line, and answers each with the process id of the fork.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.paths import ROOT


class ServerTemplate:
    """The process that is forked. `close` ends it, but not its forks."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.support.forked_server"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> ForkedProcess:
        """Start `server.py` with command-line arguments and its output in `log`.

        `environment` defaults to that of this process.
        """
        request = {"arguments": list(arguments), "log": str(log), "environment": dict(environment or os.environ)}
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        return ForkedProcess(int(stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


@dataclass(frozen=True)
class ForkedProcess:
    """The part of `subprocess.Popen` that tests use, for a process that is not a child of this one."""

    pid: int

    def poll(self) -> int | None:
        """Return None while the process runs and 0 afterwards; the exit status is unknown."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("server.py", timeout)
            time.sleep(0.02)


def _serve_forks() -> None:
    import uvicorn  # noqa: F401

    import server
    from modules import api, ui  # noqa: F401
    from modules.api import host_guard  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the forks, because this process does not
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            request = json.loads(line)
            _apply(request)
            status = server.main(request["arguments"])
            logging.shutdown()
            sys.stdout.flush()
            os._exit(status)  # shutting down the interpreter takes a second
        print(pid, flush=True)


def _apply(request: dict[str, object]) -> None:
    """Give this fork the signal handlers of a new process, and the log and the environment of `request`."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    environment = request["environment"]
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path += [path for path in paths if path and path not in sys.path]


if __name__ == "__main__":
    _serve_forks()
