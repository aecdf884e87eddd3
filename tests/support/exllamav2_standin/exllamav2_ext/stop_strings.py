"""The search for stop strings: cpp/generator.cpp."""

from __future__ import annotations

import itertools


def partial_strings_match(match: bytes, offsets: bytes, strings: bytes) -> int:
    """Return where in `match` a stop string begins; -1 if none does, -2 if `match` ends with the beginning of one.

    All three are arrays of 32-bit numbers. The first string of `strings` with a match decides.
    """
    text = _text(match)
    ends = memoryview(bytes(offsets)).cast("I")
    for begin, end in itertools.pairwise(ends):
        position = _find(text, _text(bytes(strings)[begin:end]))
        if position != -1:
            return position
    return -1


def _find(text: str, stop: str) -> int:
    for start in range(len(text)):
        candidate = text[start : start + len(stop)]
        if candidate == stop:
            return start
        if stop.startswith(candidate):
            return -2
    return -1


def _text(array: bytes) -> str:
    return bytes(array).decode("utf-32-le", "surrogatepass")
