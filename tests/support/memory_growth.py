"""Detect memory leaks in a process that repeats the same operation."""

from __future__ import annotations

from collections.abc import Sequence

SETTLING_ROUNDS = 10
"""Until the blocks of 8 MB that the C library keeps are as many as they ever are."""
ROUNDS = 20
"""How often to repeat the operation; its memory is measured after every repetition."""


def growth(sizes: Sequence[int]) -> int:
    """Return by how many bytes the smallest size of the last quarter exceeds the largest of the first.

    Two sizes cannot be compared, because the C library keeps or frees blocks of 8 MB as it likes. The result is
    negative if the sizes only vary. If every repetition leaks, it is at least half of what all repetitions leak.
    """
    quarter = len(sizes) // 4
    return min(sizes[-quarter:]) - max(sizes[:quarter])
