"""cpp/generator.cpp"""

from __future__ import annotations

import itertools


def partial_strings_match(match: bytes, offsets: bytes, strings: bytes) -> int:
    """Where in `match` one of `strings` begins; -1 if none does, -2 if one may, its end being still to come.

    All three are arrays of 32 bits. The first that fits wins, in the order of `strings`.
    """
    text = _text(match)
    ends = memoryview(bytes(offsets)).cast("I")
    for begin, end in itertools.pairwise(ends):
        found = _begin(text, _text(bytes(strings)[begin:end]))
        if found != -1:
            return found
    return -1


def _begin(text: str, wanted: str) -> int:
    for start in range(len(text)):
        rest = text[start : start + len(wanted)]
        if rest == wanted:
            return start
        if wanted.startswith(rest):
            return -2
    return -1


def _text(array: bytes) -> str:
    return bytes(array).decode("utf-32-le", "surrogatepass")
