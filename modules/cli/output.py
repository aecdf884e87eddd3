"""Print what a command has to say: its progress on stderr, its result on stdout."""

from __future__ import annotations

import json
import sys

from modules.core.events import Json


class ProgressLine:
    """Progress on stderr: on a terminal one line that is written over, elsewhere a line for each change."""

    def __init__(self) -> None:
        self.on_terminal = sys.stderr.isatty()
        self._shown = ""

    def show(self, line: str) -> bool:
        """Print `line` unless it is empty or shown already. Return whether it was printed."""
        if not line or line == self._shown:
            return False
        begin, end = ("\r\x1b[K", "") if self.on_terminal else ("", "\n")
        print(f"{begin}{line}", end=end, file=sys.stderr, flush=True)
        self._shown = line
        return True

    def end(self) -> None:
        """Complete the line, so that what is printed next has one of its own."""
        if self.on_terminal and self._shown:
            print(file=sys.stderr)


def print_json(value: Json) -> None:
    """Print a result as JSON, in ASCII if the terminal has another encoding than UTF-8."""
    print(json.dumps(value, ensure_ascii=sys.stdout.encoding.lower() != "utf-8", indent=2))
