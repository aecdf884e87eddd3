"""Find the calls in the text of a reply, as it arrives."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

from modules.chat.tools.call_format import CallFormat
from modules.chat.tools.reader import NotACall, Reading, ReplyReader
from modules.chat.tools.tool import Tool
from modules.core.pieces import TEXT, Piece

_QUOTES = tuple("`\"'“‘「『«")
"""A tag after one of these is spoken of, and begins no call."""
_BARE = ("{", "[", "```")
"""What calls without tags begin with."""
_NEVER = re.compile(r"(?!)")


class CallScanner:
    """Split a text without thoughts into text and calls.

    White space around calls is dropped. What begins like a call and is none stays text, and is one of the `faults`.
    `last` is the character before the text.
    """

    def __init__(self, calls: CallFormat, tools: Sequence[Tool], last: str = "") -> None:
        self.reader = ReplyReader(tools)
        self._format = calls
        self._openers = tuple(sorted(set(calls.openers), key=len, reverse=True))
        self._opener = re.compile("|".join(map(re.escape, self._openers))) if self._openers else _NEVER
        firsts = "".join(re.escape(one) for one in sorted({one[0] for one in self._openers}))
        self._special = re.compile(rf"[{firsts}]|\s\Z" if firsts else r"\s\Z")
        self._last = last
        self._in_text = False  # waiting for the next text, not within a call
        self._plain = False  # nothing is held back
        self._fresh = True  # nothing but calls so far
        self._after_call = False
        self._reading: Generator[None, None, None] = self._read()
        next(self._reading)

    @property
    def faults(self) -> Sequence[str]:
        return self.reader.faults

    def feed(self, text: str) -> list[Piece]:
        if self._plain and text and not self._special.search(text):  # most tokens of most replies
            self._last, self.reader.has_text = text[-1:], True
            return [(TEXT, text)]
        self.reader.append(text)
        return self._go_on()

    def end(self) -> list[Piece]:
        """Return what was held back."""
        self.reader.ended = True
        return self._go_on()

    def _go_on(self) -> list[Piece]:
        next(self._reading, None)
        pieces, self.reader.pieces = self.reader.pieces, []
        idle = self.reader.mark is None and self.reader.at == len(self.reader.text)
        self._plain = idle and not self._fresh and not self._after_call and self._in_text
        return pieces

    def _read(self) -> Generator[None, None, None]:
        reader = self.reader
        while (opener := (yield from self._next_opener())) is not None:
            assert reader.mark is not None
            calls, length = len(reader.calls), reader.at - reader.mark
            try:
                yield from self._format.read(reader, opener)
            except NotACall:
                self._give_up(opener, length)
            if len(reader.calls) > calls:
                self._after_call = self._fresh = True
            reader.mark = None

    def _give_up(self, opener: str, length: int) -> None:
        """Treat the `length` characters from the mark on, which end with `opener`, as text."""
        reader = self.reader
        if reader.mark is None:  # a call has begun: what belongs to its end was cut off
            reader.at = len(reader.text) if reader.ended else reader.at
            return
        reader.at = reader.mark
        self._fresh = False
        if opener:
            reader.add_fault(len(reader.calls))
            self._emit(length)

    # -- text --------------------------------------------------------------------------------------------------------

    def _next_opener(self) -> Reading[str | None]:
        """Return the opener that comes next, "" for a bare call, or None at the end of the reply.

        The mark is set before the white space before it, and the position behind the opener.
        """
        reader = self.reader
        if self._fresh and self._format.bare:
            reader.mark = reader.at
            found = yield from reader.ahead((*self._openers, *_BARE), skipped=" \t\r\n")
            if found in self._openers:
                yield from reader.match(*self._openers)
                return found
            if found:
                yield from reader.skip_space()
                return ""
        reader.mark = None
        self._fresh = False
        while True:
            found_at = self._opener.search(reader.text, reader.at)
            if found_at is None:
                if reader.ended:
                    self._emit(len(reader.text) - reader.at)
                    return None
                self._emit(len(reader.text) - reader.at - self._held_back())
                self._in_text = True
                yield
                self._in_text = False
                continue
            before = reader.text[reader.at : found_at.start()]
            self._emit(len(before.rstrip()))
            reader.mark, reader.at = reader.at, found_at.start()
            opener = yield from reader.match(*self._openers, skipped="")
            if (before[-1:] or self._last) not in _QUOTES:
                return opener
            length, reader.at, reader.mark = reader.at - reader.mark, reader.mark, None
            self._emit(length)

    def _held_back(self) -> int:
        """Return how many characters at the end may be the beginning of an opener, with the white space before."""
        rest = self.reader.text[self.reader.at :]
        tail = rest[-len(self._openers[0]) :] if self._openers else ""
        starts = (at for at in range(len(tail)) if any(one.startswith(tail[at:]) for one in self._openers))
        partial = len(tail) - next(starts, len(tail))
        return len(rest) - len(rest[: len(rest) - partial].rstrip())

    def _emit(self, length: int) -> None:
        """Return the next `length` characters as text, without white space after a call."""
        reader = self.reader
        text = reader.text[reader.at : reader.at + length]
        reader.at += length
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        self._last = text[-1:] or self._last
        reader.emit(TEXT, text)
