"""The slots of llama.cpp's KV cache, and the parts of them that a prompt can reuse."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from modules.engines.token_ids import common_prefix_length

MIN_SAVED_TOKENS = 64
"""Length from which on an idle slot slows the running ones down enough to be saved."""


@dataclass(eq=False)
class Slot:
    """One sequence of the context. `cells` are the tokens it holds, at positions 0, 1, …

    Those of pictures are entries of `image_cells`, which may take fewer positions. The first `shared` cells may belong
    to other slots as well. `last_use` is a counter: larger means later. `prompt_length` counts the tokens
    that the request which used it last asked `KVCache.take` for, mostly its prompt: what follows was its answer.
    """

    number: int
    cells: array[int] = field(default_factory=lambda: array("i"))
    busy: bool = False
    shared: int = 0
    last_use: int = 0
    prompt_length: int = 0


@dataclass(eq=False)
class SavedPrefix:
    """A slot's tokens with their keys and values in main memory; `state` has shape [bytes]."""

    cells: array[int]
    state: NDArray[np.uint8]


@dataclass(frozen=True)
class Reuse:
    """How many tokens of a prompt need not be evaluated (`length`), and where they are (`source`).

    Without a shift they are the first cells of `source`. With a shift (`shift_from` > 0) only `prefix` of them are; the
    others begin at position `shift_from` of `source` and are to be moved to position `shift_to`. `in_place` is whether
    `source` itself is to be used, without its other cells.
    """

    length: int = 0
    source: Slot | SavedPrefix | None = None
    prefix: int = 0
    shift_from: int = 0
    shift_to: int = 0
    in_place: bool = False


def was_last(slot: Slot, tokens: array[int]) -> bool:
    """Tell whether `tokens` are the prompt that the slot had last, and still holds."""
    return slot.prompt_length == len(tokens) <= common_prefix_length(slot.cells, tokens) + 1


def is_continuation(source: Slot | SavedPrefix, length: int) -> bool:
    """Tell whether a prompt that reuses `length` cells of `source` continues it: then the other cells may be lost."""
    return length >= len(source.cells) / 2 or len(source.cells) - length < MIN_SAVED_TOKENS
