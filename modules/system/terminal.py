"""Terminal output: the user's language, messages, and a progress line."""

from __future__ import annotations

import io
import locale
import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from modules.core.text_width import is_wide

LINE_SECONDS = 15.0


class SafeStream(io.TextIOWrapper):
    """A standard stream that never fails: a server does not stop because nobody reads what it prints.

    Characters that the encoding lacks are escaped. Once a write fails, because the terminal or the reader of a pipe is
    gone, or the disk behind it is full, output is discarded and `broken` is True.
    """

    broken = False

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._discard()

    def _discard(self) -> None:
        """Let what is buffered, and what follows, go to the null device."""
        self.broken = True
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def prepare_streams() -> None:
    """Make the standard streams safe to print to, including closed ones, before anything else opens their numbers."""
    for number in range(3):
        _open_if_closed(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = _safe(sys.stdout, 1), _safe(sys.stderr, 2)


def _safe(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:
        return SafeStream(open(number, "wb", closefd=False), "utf-8", "backslashreplace")
    if type(stream) is not io.TextIOWrapper:  # a stream of a test or a notebook
        return stream
    encoding, by_line, at_once = stream.encoding, stream.line_buffering, stream.write_through
    return SafeStream(stream.detach(), encoding, "backslashreplace", line_buffering=by_line, write_through=at_once)


def _open_if_closed(number: int) -> None:
    """Open the null device as file descriptor `number`, so that no file that is opened later gets that number.

    The lower numbers must be open: the system gives a new descriptor the lowest number that is free.
    """
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)


def terminal_language() -> str:
    """Return "zh" or "en", by the locale; "en" if the terminal could not show Chinese."""
    setting = os.environ.get("LC_ALL") or os.environ.get("LANG") or (locale.getlocale()[0] or "")
    return "zh" if setting.lower().startswith("zh") and all(map(_has_chinese, (sys.stdout, sys.stderr))) else "en"


def _has_chinese(stream: TextIO | None) -> bool:
    try:
        "中文".encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def say(words: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Print a sentence in both languages, the user's first: during set-up no language has been chosen yet."""
    order = ("zh", "en") if terminal_language() == "zh" else ("en", "zh")
    for language in order:
        print(words[language], file=stream or sys.stdout, flush=True)


class ProgressLine:
    """Show progress: in place on a terminal, elsewhere as a new line for each tenth.

    `share` is the part that is done, from 0 to 1, or None where it is unknown.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._in_place = self._stream.isatty()
        self._text = ""
        self._tenth: object = None
        self._printed = float("-inf")

    def show(self, text: str, share: float | None = None) -> None:
        if text == self._text:
            return
        if self._in_place:
            self._write(f"\r\033[K{_clipped(text, shutil.get_terminal_size().columns - 1)}")
        elif self._worth_a_line(text, share):
            self._write(f"{text}\n")
            self._printed = time.monotonic()
        else:
            return
        self._text = text

    def clear(self) -> None:
        """Remove the line from a terminal, so that the next output begins in its place."""
        if self._in_place and self._text:
            self._write("\r\033[K")
        self._text, self._tenth = "", None

    def _worth_a_line(self, text: str, share: float | None) -> bool:
        if share is None:  # the text names a stage; several may follow one another quickly
            return not self._text or time.monotonic() - self._printed >= LINE_SECONDS
        tenth = int(share * 10)
        new, self._tenth = tenth != self._tenth, tenth
        return new

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _clipped(text: str, columns: int) -> str:
    """Cut `text` to a terminal's width, where Chinese characters take two columns."""
    used = 0
    for index, character in enumerate(text):
        used += 2 if is_wide(character) else 1
        if used > columns:
            return text[:index]
    return text
