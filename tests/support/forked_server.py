"""Start server.py as a fork of a process that has its modules imported already.

Importing them takes 3 s of CPU time, more than all else that a start does. `python -m tests.support.forked_server` is
that process: it reads requests, one JSON object a line, and answers each with the process id of the fork.
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
    """The process that is forked. `close` ends it; forks that still run go on."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.support.forked_server"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> ForkedProcess:
        """Start `server.py` with these words of the command line, and what it prints in `log`. `environment` is that of
        this process unless given."""
        request = {"words": list(words), "log": str(log), "environment": dict(environment or os.environ)}
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        return ForkedProcess(int(stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


@dataclass(frozen=True)
class ForkedProcess:
    """The part of `subprocess.Popen` that tests use, for a process that is no child of this one."""

    pid: int

    def poll(self) -> int | None:
        """None while it runs; 0 afterwards, whatever its exit status was."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("server.py", timeout)
            time.sleep(0.02)


def _serve_forks() -> None:
    import uvicorn  # noqa: F401

    import server
    from modules import api, ui  # noqa: F401
    from modules.api import host_guard  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the forks: nobody here waits for them
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            request = json.loads(line)
            _become(request)
            status = server.main(request["words"])
            logging.shutdown()
            sys.stdout.flush()
            os._exit(status)  # to take the interpreter apart takes a second
        print(pid, flush=True)


def _become(request: dict[str, object]) -> None:
    """Turn this fork into what a new process with the log and the environment of `request` would be."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    environment = request["environment"]
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    known = set(sys.path)
    sys.path += [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each and each not in known]


if __name__ == "__main__":
    _serve_forks()
