"""Terminal output: the user's language, messages, and a progress line."""

from __future__ import annotations

import locale
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Mapping
from typing import TextIO

LINE_SECONDS = 15.0


def terminal_language() -> str:
    """Return "zh" or "en", by the locale."""
    setting = os.environ.get("LC_ALL") or os.environ.get("LANG") or (locale.getlocale()[0] or "")
    return "zh" if setting.lower().startswith("zh") else "en"


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
        used += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if used > columns:
            return text[:index]
    return text
