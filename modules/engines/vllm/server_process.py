"""Start `vllm serve` in a session of its own, and end all its processes with ours, however ours ends."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from modules.core.errors import WebUIError
from modules.core.events import Progress
from modules.core.worker_errors import LoadFailed
from modules.engines.failure_causes import cause
from modules.engines.served.http_client import HttpClient
from modules.engines.served.target import Target
from modules.engines.vllm.arguments import SOCKET
from modules.engines.vllm.start_log import StartLog, split_lines
from modules.system import child_process, supervisor

TERMINATE_SECONDS = 10.0
"""Time that vLLM has to end before its processes are killed."""
POLL_SECONDS = 0.2
HEALTH_SECONDS = 2.0
_CHUNK = 1 << 16

Report = Callable[[Progress], None]


class ServerProcess:
    """A `vllm serve` that answers at `target`, a Unix socket in a folder that nobody else can open.

    `command` has `arguments.SOCKET` in place of its path. Its output goes to stderr, with the progress to `report`.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], report: Report) -> None:
        folder = Path(tempfile.mkdtemp(prefix="text-studio-vllm-"))
        path = folder / "s"
        self.target = Target(socket=str(path), name="vLLM")
        self._report, self._log = report, StartLog()
        # Whoever reads our stderr sees its end only when the supervisor has ended as well, and with it all of vLLM.
        held = os.dup(2)
        words = [str(path) if word == SOCKET else word for word in command]
        try:
            self._process = child_process.start(
                child_process.supervised_server(words, TERMINATE_SECONDS, folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,
                pass_fds=(held,),
            )
        finally:
            os.close(held)
        self._reader = threading.Thread(target=self._read_log, name="vllm-log", daemon=True)
        self._reader.start()

    @property
    def session(self) -> int:
        """The id of the session in which all its processes are."""
        return self._process.pid

    def memory(self) -> int:
        """Return the bytes of main memory that its processes hold, each shared page once; 0 where it is unknown."""
        return sum(map(_proportional_bytes, supervisor.session_members(self._process.pid)))

    def wait_until_ready(self, loader: str, model: str) -> None:
        """Wait until the server answers. Raises LoadFailed with vLLM's reason if it ends before."""
        self._wait(loader, model, lambda: asyncio.run(self._answers()))

    def wait_until_computing(self, loader: str, model: str) -> None:
        """Wait until a server without requests computes for another machine. Raises as `wait_until_ready` does."""
        self._wait(loader, model, lambda: self._log.computes)

    def _wait(self, loader: str, model: str, done: Callable[[], bool]) -> None:
        while not done():
            if self._process.poll() is not None:
                self._clear_session()
                words = self._log.reason()
                raise LoadFailed(loader, model, words, cause(words))
            time.sleep(POLL_SECONDS)
        self._log.is_running = True

    async def _answers(self) -> bool:
        try:
            return (await HttpClient(self.target).request("/health", seconds=HEALTH_SECONDS)).is_ok
        except WebUIError:  # not yet
            return False

    def end_with(self) -> None:
        """Let this process end when vLLM does, with its exit status, and with its reason at the end of our log."""
        threading.Thread(target=self._end_us, name="vllm-end", daemon=True).start()

    def _end_us(self) -> None:
        status = self._process.wait()
        self._clear_session()
        print(f"vLLM has ended: {self._log.reason()}", file=sys.stderr, flush=True)
        os._exit(status or 1)

    def _clear_session(self) -> None:
        """Kill what a supervisor that was killed itself has left behind, and read the rest of the log."""
        supervisor.kill_session(self._process.pid)
        self._reader.join(1)

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        buffer = bytearray()
        descriptor = self._process.stdout.fileno()
        while chunk := os.read(descriptor, _CHUNK):
            buffer += chunk
            for line in split_lines(buffer):
                self._take(line)
        self._take(buffer.decode("utf-8", "replace"))

    def _take(self, line: str) -> None:
        progress = self._log.feed(line)
        if line.strip():
            print(line, file=sys.stderr, flush=True)
        if progress is not None and not self._log.is_running:
            self._report(progress)


def _proportional_bytes(pid: int) -> int:
    """Return the proportional set size of a process; 0 if it is unknown."""
    try:
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0
