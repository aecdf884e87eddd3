"""Read calls from a reply whose text arrives in pieces: generators that yield while they need more of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Sequence
from typing import TypeVar

from modules.chat.tools.tool import Tool
from modules.core.pieces import ARGUMENTS, CALL, REASONING, TEXT, Piece

T = TypeVar("T")
Reading = Generator[None, None, T]
"""A step of reading. It yields where it cannot go on without more text, and must be resumed after there is more."""


class NotACall(Exception):
    """The text that looked like the beginning of a call is none."""


class ReplyReader:
    """The text of a reply as far as it is known, a position in it, and the pieces that were read.

    Text before the position is dropped, from `mark` on if that is set. Offsets kept while a reading waits must be
    relative to the position.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.text = ""
        self.at = 0
        self.mark: int | None = None
        self.ended = False
        self.pieces: list[Piece] = []
        self.faults: list[str] = []
        self.calls: list[str] = []
        self.has_text = False
        self.has_thought = False
        self.in_thought = False
        self._arguments: list[str] = []

    # -- text --------------------------------------------------------------------------------------------------------

    def append(self, text: str) -> None:
        """Add what follows in the reply."""
        start = self.at if self.mark is None else self.mark
        self.text = self.text[start:] + text
        self.at -= start
        self.mark = None if self.mark is None else 0

    def has(self, count: int) -> Reading[bool]:
        """Return whether the reply has `count` more characters."""
        while len(self.text) - self.at < count:
            if self.ended:
                return False
            yield
        return True

    def skip_space(self) -> Reading[None]:
        while True:
            self.at = len(self.text) - len(self.text[self.at :].lstrip())
            if self.at < len(self.text) or self.ended:
                return
            yield

    def ahead(self, literals: Collection[str], skipped: str = " \t\r\n") -> Reading[str]:
        """Return the longest of `literals` that comes next, after any characters of `skipped`; "" for none."""
        while True:
            rest = self.text[self.at :].lstrip(skipped)
            found = max((text for text in literals if rest.startswith(text)), key=len, default="")
            if self.ended or not any(len(text) > len(found) and text.startswith(rest) for text in literals):
                return found
            yield

    def match(self, *literals: str, skipped: str = " \t\r\n") -> Reading[str]:
        """Move behind the literal that comes next, after any characters of `skipped`, and return it; "" for none."""
        found = yield from self.ahead(literals, skipped)
        if found:
            self.at = self.text.index(found, self.at) + len(found)
        return found

    def until(self, literals: Collection[str], limit: int | None = None) -> Reading[tuple[str, str]]:
        """Return the text before the first of `literals`, and that literal, and move behind both.

        Raises NotACall if the reply ends without one, or if the text has more than `limit` characters.
        """
        searched, longest = 0, max(map(len, literals))
        while True:
            start = self.at + max(searched - longest + 1, 0)
            found = [(at, -len(text), text) for text in literals if (at := self.text.find(text, start)) >= 0]
            length = (min(found)[0] if found else len(self.text)) - self.at
            if limit is not None and length - (0 if found else longest) > limit:
                raise NotACall
            if found:
                before, literal = self.text[self.at : self.at + length], min(found)[2]
                self.at += length + len(literal)
                return before, literal
            if self.ended:
                raise NotACall
            searched = len(self.text) - self.at
            yield

    # -- pieces ------------------------------------------------------------------------------------------------------

    def emit(self, kind: str, text: str) -> None:
        """Add a piece; neighbors of one kind become one."""
        if not text:
            return
        if self.pieces and kind != CALL and self.pieces[-1][0] == kind:
            text = self.pieces.pop()[1] + text
        self.pieces.append((kind, text))
        self.has_text = self.has_text or kind == TEXT
        self.has_thought = self.has_thought or kind == REASONING

    def begin_call(self, name: str) -> None:
        """Begin a call. It cannot become text any more."""
        self.emit(CALL, name)
        self.calls.append(name)
        self._arguments = []
        self.mark = None

    def write(self, text: str) -> None:
        """Add a fragment of the arguments of the call."""
        self.emit(ARGUMENTS, text)
        self._arguments.append(text)

    def end_call(self) -> None:
        """Note a fault if the arguments are not valid JSON, unless the reply was cut within them."""
        if not self._arguments:
            self.write("{}")
        elif not is_object("".join(self._arguments)):
            self.add_fault()

    def add_fault(self, call: int | None = None) -> None:
        """Note that the call of this number, by default the last one, is not as it should be."""
        name = f"tool_calls[{max(len(self.calls) - 1, 0) if call is None else call}]"
        if name not in self.faults:
            self.faults.append(name)


def is_object(text: str) -> bool:
    """Return whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
