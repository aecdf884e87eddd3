"""Search the texts of conversations without parsing most of their files."""

from __future__ import annotations

import re
from collections.abc import Iterable

BEFORE, AFTER = 30, 90
"""Characters of a snippet around the beginning of what was found."""


class Query:
    """The words of `text`, all of which must occur in a conversation, in any case."""

    def __init__(self, text: str) -> None:
        self.words = list(dict.fromkeys(text.lower().split()))
        self._needles = [_needles(word) for word in self.words]

    def may_match(self, content: bytes) -> bool:
        """Whether a file with this content may have the words; False only if it certainly has not."""
        lowered = content.lower()
        escaped = b"\\u" in lowered
        return all(plain in lowered or (escaped and quoted in lowered) for plain, quoted in filter(None, self._needles))

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


def _needles(word: str) -> tuple[bytes, bytes] | None:
    """Return the longest part of the word that files have in one form, plain and escaped for JSON; None without one."""
    parts = "".join(char if _has_one_form(char) else " " for char in word).split()
    longest = max(parts, key=len, default="")
    if not longest:
        return None
    escaped = "".join(char if char.isascii() else f"\\u{ord(char):04x}" for char in longest)
    return longest.encode(), escaped.encode()


def _has_one_form(char: str) -> bool:
    """Whether the character is written in one way, upper and lower case of ASCII aside."""
    if char.isascii():
        return char.isprintable() and char not in '"\\/'
    return char.lower() == char.upper() and len(char.encode("utf-16-le", "surrogatepass")) == 2


def _snippet(text: str, word: str) -> str:
    """Return the surroundings of the word, on one line."""
    match = re.search(re.escape(word), text, re.IGNORECASE)
    at = match.start() if match else 0
    start, end = max(0, at - BEFORE), at + AFTER
    words = " ".join(text[start:end].split())
    return ("…" if start else "") + words + ("…" if end < len(text) else "")
