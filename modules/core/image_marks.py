"""Marks that stand for images in the text of a prompt.

A mark is the number of the image between two code points that Unicode keeps for the internal use of programs. No
template changes them, and texts of users are `escaped` so that they have none.
"""

from __future__ import annotations

import re

_OPEN, _CLOSE, _REPLACEMENT = "\ufdd0", "\ufdd1", "\ufffd"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


def mark(number: int) -> str:
    """Return the mark of an image, by its index in `Prompt.images`."""
    return f"{_OPEN}{number}{_CLOSE}"


def escaped(text: str) -> str:
    """Return `text` without anything that could be read as a mark."""
    return text.replace(_OPEN, _REPLACEMENT)


def marked_numbers(text: str) -> list[int]:
    """Return the numbers of the images that `text` marks, in order."""
    return [int(number) for number in _MARK.findall(text)]


def shown(text: str) -> str:
    """Return `text` with "<image>" in place of each mark, for people."""
    return _MARK.sub("<image>", text)


def split_at_marks(text: str) -> list[str | int]:
    """Return the texts between the marks, without empty ones, and in place of each mark its number."""
    pieces: list[str | int] = []
    for index, piece in enumerate(_MARK.split(text)):
        if index % 2:
            pieces.append(int(piece))
        elif piece:
            pieces.append(piece)
    return pieces
