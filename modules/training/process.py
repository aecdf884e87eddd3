"""The training process as its parent sees it: started for one run, read line by line, stopped or killed."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from modules.core.events import Json
from modules.core.paths import ROOT
from modules.core.training_errors import TrainerDied
from modules.runtime.worker_process import SHORT_WAITING, TAIL_LINES, child_environment
from modules.system import child_process

PROGRAM = "modules.trainer"

log = logging.getLogger("worker")


class TrainingProcess:
    """A process that trains the run in `folder`, with the packages in `overlay`. Any thread may stop or kill it.

    `program` is the module that it runs, `arguments` are those behind the folder.
    """

    def __init__(self, folder: Path, overlay: Path | None, program: str = PROGRAM, *arguments: str) -> None:
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        environment = child_environment(overlay, SHORT_WAITING) | {
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",  # of no use to a user, who gets the last lines if the process dies
        }
        self._child = child_process.start(
            [sys.executable, "-m", program, str(folder), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        self._stderr_reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr_reader.start()

    def events(self) -> Iterator[Json]:
        """Yield what the process reports, the last being "done" or "failed". Raises TrainerDied if it ends before."""
        ended = False
        for line in self._child.stdout or ():
            with contextlib.suppress(ValueError):  # cut off by its death
                event = json.loads(line)
                ended = event["event"] in ("done", "failed")
                yield event
        status = self._child.wait()
        self._stderr_reader.join(timeout=1.0)
        if not ended:
            raise TrainerDied(_how_it_ended(status), "\n".join(self._tail))

    def stop(self) -> None:
        """Ask it to end after the present update."""
        with contextlib.suppress(OSError, ValueError):
            if self._child.stdin is not None:
                self._child.stdin.write(b"stop\n")
                self._child.stdin.flush()

    def kill(self) -> None:
        self._child.kill()

    def close(self) -> None:
        """Wait for its end, which must be near, and free the pipes."""
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _read_stderr(self) -> None:
        for raw in self._child.stderr or ():
            line = raw.decode("utf-8", "replace").rstrip().rpartition("\r")[2]
            log.debug("%s", line)
            if line:
                self._tail.append(line)


def _how_it_ended(status: int) -> str:
    if status < 0:
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"
    return f"exit status {status}"
