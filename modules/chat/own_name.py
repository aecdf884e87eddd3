"""Take the name of its speaker off the beginning of a reply, as pieces of text arrive."""

from __future__ import annotations

from collections.abc import Sequence

from modules.core.pieces import TEXT, Piece
from modules.core.reasoning import ReasoningParser

_FORMS = ("{}:", "{}：", "**{}:**", "**{}：**", "**{}**:", "**{}**：", "*{}:*", "*{}*:", "[{}]:")


class NamedReplyParser:
    """Splits a reply as `parser` does. White space and one of `names` with a colon are dropped before its text."""

    def __init__(self, parser: ReasoningParser, names: Sequence[str]) -> None:
        self._parser = parser
        self._prefixes = [form.format(name) for name in names if name for form in _FORMS]
        self._pending = ""
        self._named = self._decided = False

    def feed(self, text: str) -> list[Piece]:
        return self._without_name(self._parser.feed(text), ending=False)

    def end(self) -> list[Piece]:
        """Return what was held back."""
        return self._without_name(self._parser.end(), ending=True)

    def _without_name(self, pieces: Sequence[Piece], ending: bool) -> list[Piece]:
        if self._decided:
            return list(pieces)
        found = [piece for piece in pieces if piece[0] != TEXT]
        self._pending += "".join(text for kind, text in pieces if kind == TEXT)
        text = self._strip(ending)
        return [*found, (TEXT, text)] if text else found

    def _strip(self, ending: bool) -> str:
        """Return the text that is certain by now."""
        self._pending = self._pending.lstrip()
        if not self._named:
            name = max((one for one in self._prefixes if self._pending.startswith(one)), key=len, default="")
            undecided = any(one.startswith(self._pending) and one != name for one in self._prefixes)
            if undecided and not ending:
                return ""
            self._named = True
            self._pending = self._pending[len(name) :].lstrip()
        text, self._pending = self._pending, ""
        self._decided = bool(text)
        return text
