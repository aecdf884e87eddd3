"""Titles of conversations."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from modules.conversations.errors import InvalidTitle
from modules.core.text_width import is_wide

MAX_LENGTH = 200
_MAX_DERIVED = 60
_MAX_SEARCHED = 300


def checked_title(title: str) -> str:
    """Return the title without surrounding space. Raises InvalidTitle; "" is valid and means a derived one."""
    title = title.strip()
    if len(title) > MAX_LENGTH:
        raise InvalidTitle({"en": f"it has more than {MAX_LENGTH} characters", "zh": f"超过 {MAX_LENGTH} 个字符"})
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in title):
        raise InvalidTitle({"en": "it has line breaks or control characters", "zh": "含有换行符或控制字符"})
    return title


def derive_title(questions: Iterable[str]) -> str:
    """Return a title of the first line of the first question that has one: whole words, at most 60 characters."""
    beginnings = (question.lstrip()[:_MAX_SEARCHED] for question in questions)
    lines = (" ".join(printable(line).split()) for beginning in beginnings for line in beginning.splitlines())
    line = next(filter(None, lines), "")
    if len(line) <= _MAX_DERIVED:
        return line
    cut = line[: _MAX_DERIVED - 1]
    if line[len(cut)] != " " and not is_wide(line[len(cut)]) and not is_wide(cut[-1]):
        words = cut.rpartition(" ")[0]
        wide = max((position for position, char in enumerate(cut) if is_wide(char)), default=-1) + 1
        cut = max(words, cut[:wide], key=len) or cut
    while unicodedata.combining(line[len(cut)]) and len(cut) > 1:  # not between a letter and its accents
        cut = cut[:-1]
    return cut.rstrip() + "…"


def printable(text: str) -> str:
    """Return the text with a space for each line break, control character and stray surrogate."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)
