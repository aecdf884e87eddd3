"""Read the log of vLLM: how far its start is, and why it failed."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from modules.core.events import Progress

TAIL_LINES = 12
REASON_LINES = 5
LONGEST_LINE = 1000
"""Characters of a line that are kept."""

_PREFIX = re.compile(r"^\((?P<process>[\w-]+)(?: pid=\d+)?\) (?:(?P<level>[A-Z]+) \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?")
_SHARDS = re.compile(r"checkpoint shards: +(\d+)% Completed")
_COMPILING = re.compile(
    r"Dynamo bytecode transform|Compiling a graph|torch\.compile takes|[Cc]apturing CUDA graph|Warming up model"
)
_HEADLESS = re.compile(r"Launching .*headless")
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt)\b: ")
_CONSEQUENCE = (
    *("Engine core initialization failed", "WorkerProc initialization failed"),
    "EngineCore encountered an issue",
)
"""Messages of processes that ended because another one failed."""


class StartLog:
    """The lines that vLLM has printed. `computes` tells whether it has begun to compute for another machine.

    `is_running` is set once it has started: then it goes on after most exceptions, and the last one is why it ended.
    """

    def __init__(self) -> None:
        self.computes = False
        self.is_running = False
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._reason: list[str] = []
        self._is_reason_open = False

    def feed(self, line: str) -> Progress | None:
        """Take a line, and return the progress that it tells of, if it does."""
        line = line.rstrip()[:LONGEST_LINE]
        if not line:
            return None
        self._tail.append(line)
        self._read_reason(_PREFIX.sub("", line))
        self.computes |= _HEADLESS.search(line) is not None
        if shards := _SHARDS.search(line):
            return Progress("weights", int(shards[1]) / 100)
        return Progress("kernels", 0.0) if _COMPILING.search(line) else None

    def reason(self) -> str:
        """Return the exception that ended vLLM, or the last lines if none is among them.

        The first process that fails says why; the others say, after it, that it failed.
        """
        return "\n".join(self._reason or self._tail)

    def _read_reason(self, words: str) -> None:
        """Keep an exception: the last line of its traceback, and what follows of its message."""
        is_kept = self.is_running or not self._reason
        if is_kept and _EXCEPTION.match(words) and not any(text in words for text in _CONSEQUENCE):
            self._reason, self._is_reason_open = [words], True
        elif self._is_reason_open:
            self._is_reason_open = words.startswith(" ") and len(self._reason) < REASON_LINES
            self._reason += [words] if self._is_reason_open else []


def split_lines(buffer: bytearray) -> Iterator[str]:
    """Yield the complete lines at the start of `buffer`, and remove them. A progress bar ends its lines with \\r."""
    while (found := re.search(rb"[\r\n]", buffer)) or len(buffer) > LONGEST_LINE:
        end = found.start() if found else LONGEST_LINE
        yield buffer[:end].decode("utf-8", "replace")
        del buffer[: end + 1 if found else end]
