"""Search the texts of conversations without parsing most of their files."""

from __future__ import annotations

import re
from collections.abc import Iterable

BEFORE, AFTER = 30, 90
"""Characters of a snippet around the beginning of what was found."""
_ESCAPED = set('"\\/') | set(map(chr, range(32)))
"""Characters that JSON escapes, or may escape."""
_TWO_ESCAPES = 0x10000
"""The first character for which JSON in ASCII needs two escapes."""


class Query:
    """The words of `text`, all of which must occur in a conversation, in any case."""

    def __init__(self, text: str) -> None:
        self.words = list(dict.fromkeys(text.lower().split()))
        needles = {word: _needle(word) for word in self.words}
        self._needles = [(needle.encode(), _escaped(needle).encode()) for needle in needles.values() if needle]
        self._other_words = [word for word, needle in needles.items() if not needle and not set(word) & _ESCAPED]

    def may_match(self, content: bytes) -> bool:
        """Whether a file with this content may have the words; False only if it certainly has not."""
        lowered = content.lower()  # the letters of ASCII
        escaped = b"\\u" in lowered
        if not all(plain in lowered or (escaped and quoted in lowered) for plain, quoted in self._needles):
            return False
        if escaped or not self._other_words:
            return True
        text = content.decode("utf-8", "replace").lower()
        return all(word in text for word in self._other_words)

    def match(self, title: str, texts: Iterable[str]) -> str | None:
        """Return the snippet if all words occur; "" if all are in the title, None if one occurs nowhere."""
        lower_title = title.lower()
        missing = [word for word in self.words if word not in lower_title]
        if not missing:
            return ""
        snippet = ""
        for text in texts:
            lowered = text.lower()
            found = [word for word in missing if word in lowered]
            if found:
                snippet = snippet or _snippet(text, found[0])
                missing = [word for word in missing if word not in found]
            if not missing:
                return snippet
        return None


def _needle(word: str) -> str:
    """Return the longest part of the word that files have in one form, letters of ASCII aside; "" without one."""
    parts = "".join(char if _has_one_form(char) else " " for char in word).split()
    return max(parts, key=len, default="")


def _has_one_form(char: str) -> bool:
    if char.isascii():
        return char.isprintable() and char not in _ESCAPED
    return char.lower() == char.upper() and ord(char) < _TWO_ESCAPES


def _escaped(text: str) -> str:
    """Return the text as JSON in ASCII has it."""
    return "".join(char if char.isascii() else f"\\u{ord(char):04x}" for char in text)


def _snippet(text: str, word: str) -> str:
    """Return the surroundings of the word, on one line."""
    match = re.search(re.escape(word), text, re.IGNORECASE)
    at = match.start() if match else 0
    start, end = max(0, at - BEFORE), at + AFTER
    words = " ".join(text[start:end].split())
    return ("…" if start else "") + words + ("…" if end < len(text) else "")
