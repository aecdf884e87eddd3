"""Show the progress of a download: a bar on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from typing import TextIO

from modules.downloads.view import JobView
from modules.hub.errors import DownloadError, RateLimited

_LINE_SECONDS = 5.0
_BAR_WIDTH, _MIN_COLUMNS = 20, 40


class ProgressDisplay:
    """Writes to `output`. `words` maps the states of jobs to texts in the user's `language`."""

    def __init__(self, output: TextIO, words: Mapping[str, str], language: str) -> None:
        self._output, self._words, self._language = output, words, language
        self._on_terminal = output.isatty()
        self._last_state: object = None
        self._next_line_at, self._bar_shown = 0.0, False

    def show(self, view: JobView) -> None:
        if self._on_terminal:
            columns = max(_MIN_COLUMNS, shutil.get_terminal_size().columns) - 1
            self._write("\r" + _cut(f"{_bar(view)} {self._line(view)}", columns) + "\x1b[K")
            self._bar_shown = True
            return
        state, now = (self._state(view), type(view.waiting), view.attempt), time.monotonic()
        if state != self._last_state or now >= self._next_line_at:
            self._last_state, self._next_line_at = state, now + _LINE_SECONDS
            self._write(self._line(view) + "\n")

    def print(self, sentence: str) -> None:
        """Print a sentence on a line of its own."""
        self.end()
        self._write(sentence + "\n")

    def end(self) -> None:
        """End the line of the bar."""
        if self._bar_shown:
            self._write("\n")
            self._bar_shown = False

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()

    def _state(self, view: JobView) -> str:
        return self._words["elsewhere" if view.elsewhere else view.state].format(host=view.host or "…")

    def _line(self, view: JobView) -> str:
        if view.waiting:
            facts = (view.waiting, view.wait_seconds, view.attempt, view.attempts)
            return waiting_text(self._words, self._language, *facts)
        parts = [self._state(view)]
        if view.total:
            parts.append(f"{100 * view.done // view.total}% {format_size(view.done)}/{format_size(view.total)}")
        if view.speed and view.state == "downloading":
            parts.append(f"{format_size(int(view.speed))}/s {_format_duration(view.seconds_left or 0)}")
        if view.index:
            parts.append(f"{self._words['file'].format(index=view.index, count=view.count)} {view.file}")
        return " · ".join(parts)


def waiting_text(
    words: Mapping[str, str], language: str, error: DownloadError, seconds: float, attempt: int, attempts: int
) -> str:
    """Return why nothing arrives, and in how many seconds which of the attempts begins."""
    if isinstance(error, RateLimited):
        return words["rate_limited"].format(host=error.host, seconds=round(seconds))
    facts = {"attempt": attempt, "attempts": attempts, "error": error.say(language)}
    return words["waiting"].format(seconds=round(seconds), **facts)


def format_size(count: int) -> str:
    """Format bytes with decimal units, as file managers and download sites do."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{count} B"


def _bar(view: JobView) -> str:
    filled = _BAR_WIDTH * view.done // view.total if view.total else 0
    return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}]"


def _cut(line: str, columns: int) -> str:
    """Cut `line` to the width of a terminal row; a Chinese character takes two columns."""
    width = 0
    for index, char in enumerate(line):
        width += 2 if ord(char) >= 0x1100 and char.isalpha() else 1
        if width > columns:
            return line[:index]
    return line


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
