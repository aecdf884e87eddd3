"""Render chat templates in child processes with limits of time, memory and output."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Json
from modules.system.limited_process import (
    OUT_OF_MEMORY,
    OUTPUT_TOO_LARGE,
    LimitedProcess,
    Limits,
    ProcessEnded,
)

SECONDS = 5
MEMORY_BYTES = 512 << 20
OUTPUT_BYTES = 8 << 20
"""The limits of one request."""
MOST_PROCESSES = 4
"""Renderings at once. A client with a template that takes all the time it may have delays no other client then."""
KEPT_PROCESSES = 2
"""Processes kept for the next requests."""

_PROGRAM = Path(__file__).with_name("render_child.py")

_LIMITS: Mapping[int, Words] = {
    OUT_OF_MEMORY: {
        "en": f"it needed more than {MEMORY_BYTES >> 20} MB of memory",
        "zh": f"需要超过 {MEMORY_BYTES >> 20} MB 内存",
    },
    OUTPUT_TOO_LARGE: {
        "en": f"its output has more than {OUTPUT_BYTES >> 20} MB",
        "zh": f"输出超过 {OUTPUT_BYTES >> 20} MB",
    },
}
_OUT_OF_TIME: Words = {"en": f"it ran for more than {SECONDS} seconds", "zh": f"运行超过 {SECONDS} 秒"}


class LimitExceeded(Exception):
    """A template was stopped. `limit` says which limit it exceeded."""

    def __init__(self, limit: Words) -> None:
        super().__init__(limit["en"])
        self.limit = limit


@dataclass(frozen=True)
class Rendering:
    """The text of a rendering, or else why the template refused it and in which of its lines, 0 if not known."""

    text: str = ""
    error: str = ""
    line: int = 0

    def shows(self, *words: str) -> bool:
        """Whether it succeeded and all `words` are in its text."""
        return not self.error and all(word in self.text for word in words)


class Renderer:
    """The processes that render templates; any thread may call. They are started when needed, and end with ours."""

    def __init__(self) -> None:
        self._room = threading.Semaphore(MOST_PROCESSES)
        self._lock = threading.Lock()
        self._idle: list[LimitedProcess] = []

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
        return [Rendering(value) if kind == "text" else Rendering("", value, line) for kind, value, line in results]

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
            except ProcessEnded as ended:
                if ended.code in _LIMITS or ended.timed_out:
                    raise LimitExceeded(_limit_of(ended)) from None
                # It may have been killed while it was idle.
        try:
            return self._answer(LimitedProcess(_PROGRAM, Limits(SECONDS, MEMORY_BYTES, OUTPUT_BYTES)), request)
        except ProcessEnded as ended:
            raise LimitExceeded(_limit_of(ended)) from None

    def _answer(self, process: LimitedProcess, request: bytes) -> bytes:
        answer = process.ask(request)
        with self._lock:
            keep = len(self._idle) < KEPT_PROCESSES
            if keep:
                self._idle.append(process)
        if not keep:
            process.kill()
        return answer


def _limit_of(ended: ProcessEnded) -> Words:
    crash: Words = {
        "en": f"it crashed the process that renders it (exit code {ended.code})",
        "zh": f"它导致渲染进程崩溃（退出码 {ended.code}）",
    }
    return _OUT_OF_TIME if ended.timed_out else _LIMITS.get(ended.code, crash)
