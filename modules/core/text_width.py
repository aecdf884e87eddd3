"""The width of text where Chinese, Japanese and Korean characters take two columns."""

from __future__ import annotations

import unicodedata

_FIRST_WIDE = "\u1100"


def is_wide(character: str) -> bool:
    """Return whether a character takes two columns. Text may be cut before and after it."""
    return character >= _FIRST_WIDE and unicodedata.east_asian_width(character) in "WF"


def columns(text: str) -> int:
    """Return how many columns a text takes."""
    return len(text) if text.isascii() else len(text) + sum(map(is_wide, text))
