"""Whether a process that does the same thing over and over takes more and more memory."""

from __future__ import annotations

from collections.abc import Sequence

ROUNDS = 20
"""So many sizes are to be looked at, one after each time."""


def growth(sizes: Sequence[int]) -> int:
    """Bytes by which all of the last quarter exceed all of the first: below 0 if they come and go.

    The C library keeps blocks of 8 MB or gives them back as it likes, so two sizes tell nothing. What leaves something
    behind each time has grown by half of the rounds' worth and more.
    """
    quarter = len(sizes) // 4
    return min(sizes[-quarter:]) - max(sizes[:quarter])
