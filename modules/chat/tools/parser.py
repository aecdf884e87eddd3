"""Split a reply into the thought, the text and calls of tools, as its text arrives."""

from __future__ import annotations

import re
from collections.abc import Sequence

from modules.chat.tools.call_format import CallFormat
from modules.chat.tools.reader import is_object
from modules.chat.tools.scanner import CallScanner
from modules.chat.tools.tool import Tool
from modules.core.pieces import ARGUMENTS, CALL, REASONING, TEXT, Piece
from modules.core.reasoning import ReasoningParser


class ToolCallParser:
    """Split one reply. Calls are in its text; in its thought only complete ones of known tools with which it ends."""

    def __init__(self, reasoning: ReasoningParser, calls: CallFormat, tools: Sequence[Tool]) -> None:
        self._reasoning = reasoning
        self._scanner = CallScanner(calls, tools)
        self._thought = _ThoughtScanner(calls, tools)

    @property
    def inside(self) -> bool:
        return self._reasoning.inside or self._scanner.reader.in_thought

    @property
    def faults(self) -> Sequence[str]:
        return self._scanner.faults

    def feed(self, text: str) -> list[Piece]:
        return self._split(self._reasoning.feed(text))

    def end(self) -> list[Piece]:
        pieces = self._split(self._reasoning.end())
        rest = self._scanner.end()
        spoken = any(kind != TEXT or text.strip() for kind, text in rest)
        return [*pieces, *(self._thought.release() if spoken else self._thought.end()), *rest]

    def _split(self, parts: Sequence[Piece]) -> list[Piece]:
        pieces: list[Piece] = []
        for kind, text in parts:
            if kind == REASONING:
                self._scanner.reader.has_thought = True
                pieces += self._thought.feed(text)
            elif found := self._scanner.feed(text):
                pieces += [*self._thought.release(), *found]
        return pieces


class _ThoughtScanner:
    """Hold back what may be calls at the end of a thought; everything else is thought."""

    def __init__(self, calls: CallFormat, tools: Sequence[Tool]) -> None:
        self._format, self._tools = calls, tools
        openers = sorted(set(calls.openers), key=len, reverse=True)
        self._openers = openers
        self._opener = re.compile("|".join(map(re.escape, openers)) or r"(?!)")
        self._held = ""
        self._last = ""
        self._scanner: CallScanner | None = None  # of what is held, up to `_scanned`
        self._scanned = 0
        self._calls: list[Piece] = []

    def feed(self, text: str) -> list[Piece]:
        self._held += text
        length = 0  # of what is thought for certain
        while True:
            if self._scanner is None:
                found = self._opener.search(self._held, length)
                if found is None:
                    length = len(self._held) - self._begun_opener(length)
                    break
                length = found.start()
                before = self._held[length - 1 : length] or self._last
                self._scanner, self._scanned, self._calls = CallScanner(self._format, self._tools, before), length, []
            found_now = self._scanner.feed(self._held[self._scanned :])
            self._calls += found_now
            self._scanned = len(self._held)
            if not self._fails(found_now):
                break
            self._scanner = None
            opener = self._opener.match(self._held, length)
            length += len(opener[0]) if opener else 1
        return self._take(length)

    def release(self) -> list[Piece]:
        """Return what is held back as thought."""
        self._scanner = None
        return self._take(len(self._held))

    def end(self) -> list[Piece]:
        """Return what is held back, as the reply ends here."""
        if self._scanner is not None:
            rest = self._scanner.end()
            self._calls += rest
            if self._calls and not self._fails(rest) and all(map(is_object, _arguments(self._calls))):
                calls, self._held, self._scanner = self._calls, "", None
                return calls
        return self.release()

    def _fails(self, pieces: Sequence[Piece]) -> bool:
        """Return whether what is held has other things than calls of known tools; `pieces` are the newest of it."""
        assert self._scanner is not None
        reader = self._scanner.reader
        others = any(kind not in (CALL, ARGUMENTS) for kind, _ in pieces)
        return others or bool(reader.faults) or any(name not in reader.tools for name in reader.calls)

    def _take(self, length: int) -> list[Piece]:
        text, self._held = self._held[:length], self._held[length:]
        self._scanned -= length
        self._last = text[-1:] or self._last
        return [(REASONING, text)] if text else []

    def _begun_opener(self, start: int) -> int:
        """Return how many characters at the end may be the beginning of an opener."""
        tail = self._held[max(start, len(self._held) - max(map(len, self._openers), default=0)) :]
        starts = (at for at in range(len(tail)) if any(one.startswith(tail[at:]) for one in self._openers))
        return len(tail) - next(starts, len(tail))


def _arguments(pieces: Sequence[Piece]) -> list[str]:
    """Return the arguments of each call."""
    found: list[str] = []
    for kind, text in pieces:
        if kind == CALL:
            found.append("")
        else:
            found[-1] += text
    return found
