"""Render chat templates in child processes with limits of time, memory and output."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Json
from modules.system import child_process

SECONDS = 5
MEMORY_BYTES = 512 << 20
OUTPUT_BYTES = 8 << 20
"""The limits of one request."""
MOST_PROCESSES = 4
"""Renderings at once. A client with a template that takes all the time it may have delays no other client then."""
KEPT_PROCESSES = 2
"""Processes kept for the next requests."""
_NICENESS = 5
"""A template that computes until it is stopped should leave the processors to the models."""

_PROGRAM = Path(__file__).with_name("render_child.py")
_INHERITED = ("LD_LIBRARY_PATH", "SYSTEMROOT", "TZ")  # no secrets, such as HF_TOKEN

_LIMITS: Mapping[int, Words] = {
    3: {
        "en": f"it needed more than {MEMORY_BYTES >> 20} MB of memory",
        "zh": f"需要超过 {MEMORY_BYTES >> 20} MB 内存",
    },
    4: {"en": f"its output has more than {OUTPUT_BYTES >> 20} MB", "zh": f"输出超过 {OUTPUT_BYTES >> 20} MB"},
}
_OUT_OF_TIME: Words = {"en": f"it ran for more than {SECONDS} seconds", "zh": f"运行超过 {SECONDS} 秒"}


class LimitExceeded(Exception):
    """A template was stopped. `limit` says which limit it exceeded."""

    def __init__(self, limit: Words) -> None:
        super().__init__(limit["en"])
        self.limit = limit


@dataclass(frozen=True)
class Rendering:
    """The text of a rendering, or else why the template refused it."""

    text: str = ""
    error: str = ""

    def shows(self, *words: str) -> bool:
        """Whether it succeeded and all `words` are in its text."""
        return not self.error and all(word in self.text for word in words)


class Renderer:
    """The processes that render templates; any thread may call. They are started when needed, and end with ours."""

    def __init__(self) -> None:
        self._room = threading.Semaphore(MOST_PROCESSES)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []

    def render(
        self, template: str, common: Mapping[str, Json], variants: Sequence[Mapping[str, Json]]
    ) -> list[Rendering]:
        """Render `template` once for each of `variants`, which are added to the `common` variables.

        Raises LimitExceeded if all of them together exceed a limit.
        """
        request = json.dumps([template, common, variants], ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with self._room:
            answer = self._ask(request)
        results = json.loads(answer.decode("utf-8", "surrogatepass"))
        return [Rendering(**{"text" if kind == "text" else "error": value}) for kind, value in results]

    def close(self) -> None:
        """End the processes that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.kill()

    def _ask(self, request: bytes) -> bytes:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if process is not None:
            try:
                return self._answer(process, request)
            except _Ended as ended:
                if ended.code in _LIMITS or ended.timed_out:
                    raise LimitExceeded(ended.limit) from None
                # It may have been killed while it was idle.
        try:
            return self._answer(_Process(), request)
        except _Ended as ended:
            raise LimitExceeded(ended.limit) from None

    def _answer(self, process: _Process, request: bytes) -> bytes:
        answer = process.ask(request)
        with self._lock:
            keep = len(self._idle) < KEPT_PROCESSES
            if keep:
                self._idle.append(process)
        if not keep:
            process.kill()
        return answer


class _Ended(Exception):
    """The process ended before it answered."""

    def __init__(self, code: int, timed_out: bool) -> None:
        super().__init__(code)
        self.code, self.timed_out = code, timed_out

    @property
    def limit(self) -> Words:
        crash: Words = {
            "en": f"it crashed the process that renders it (exit code {self.code})",
            "zh": f"它导致渲染进程崩溃（退出码 {self.code}）",
        }
        return _OUT_OF_TIME if self.timed_out else _LIMITS.get(self.code, crash)


class _Process:
    """One child process, for one request at a time."""

    def __init__(self) -> None:
        # The child's own alarm comes later than ours: it is for the case that this process has ended.
        limits = (MEMORY_BYTES, SECONDS + 1, OUTPUT_BYTES, os.getpid())
        self._child = child_process.start(
            [sys.executable, "-I", str(_PROGRAM), *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_PROGRAM.parent,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            start_new_session=True,  # Ctrl-C in the terminal reaches the server only
        )
        if sys.platform != "win32":
            os.setpriority(os.PRIO_PROCESS, self._child.pid, os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)

    def ask(self, request: bytes) -> bytes:
        """Return the answer. Raises _Ended, after which the process is gone."""
        assert self._child.stdin is not None and self._child.stdout is not None
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            self._child.kill()

        timer = threading.Timer(SECONDS, stop)
        timer.daemon = True
        timer.start()
        try:
            self._child.stdin.write(request)
            self._child.stdin.flush()
            answer: bytes = self._child.stdout.readline(OUTPUT_BYTES + 1)
        except OSError:  # it has ended
            answer = b""
        timer.cancel()
        if not answer.endswith(b"\n"):
            self.kill()
            raise _Ended(self._child.returncode, timed_out.is_set())
        return answer

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # a request that was never read
                    pipe.close()
