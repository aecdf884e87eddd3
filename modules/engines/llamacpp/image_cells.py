"""Entries that stand for pictures among the tokens of a prompt and of a slot.

A chunk of a picture has one entry for each of its cells in the KV cache. All are negative: the first is even, the
others are the next lower, odd number. So two prompts have the same entries exactly where they have the same pictures.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

import numpy as np

FIRST_CELLS = 2
"""The first number of a chunk; further ones are larger by 2. An entry is the negative of its chunk's number."""


def text_tokens(tokens: Iterable[int]) -> array[int]:
    """Return the tokens without the entries of pictures."""
    return array("i", (token for token in tokens if token >= 0))


def whole_chunks(tokens: array[int], length: int) -> int:
    """Return `length`, or where the chunk begins of which `tokens[:length]` would have a part only."""
    while 0 < length < len(tokens) and _is_inside(tokens[length]):
        length -= 1
    return length


def text_length(tokens: array[int], begin: int) -> int:
    """Return how many tokens there are from `begin` to the next picture, or to the end."""
    rest = np.frombuffer(tokens, np.int32)[begin:]
    pictures = np.flatnonzero(rest < 0)
    return int(pictures[0]) if len(pictures) else len(rest)


def has_images(tokens: array[int]) -> bool:
    return bool(len(tokens)) and bool((np.frombuffer(tokens, np.int32) < 0).any())


def positions(cells: array[int], length: int, surplus: Mapping[int, int]) -> int:
    """Return how many positions the first `length` of `cells` take.

    `surplus` says by how many its cells exceed its positions, for each chunk of which that is so, by its first entry.
    """
    if not surplus or not length:
        return length
    held = np.frombuffer(cells, np.int32)[:length]
    firsts = held[(held < 0) & (held % 2 == 0)]
    return length - sum(surplus.get(int(first), 0) for first in firsts)


def _is_inside(entry: int) -> bool:
    return entry < 0 and entry % 2 == 1
