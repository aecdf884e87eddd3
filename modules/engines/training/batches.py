"""Rows of tokens as tensors: padded batches, or several rows packed into one sequence."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

import torch

from modules.engines.training.tokens import IGNORED, TokenRow


def pack(rows: Sequence[TokenRow], length: int) -> list[list[TokenRow]]:
    """Distribute rows over sequences of at most `length` tokens: the longest first, each where it leaves the least."""
    packs: list[list[TokenRow]] = []
    room: list[tuple[int, int]] = []  # what is left in a pack, and its index, sorted
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        needed = len(row.tokens)
        best = bisect_left(room, (needed, 0))
        if best < len(room):
            free, index = room.pop(best)
            packs[index].append(row)
        else:
            free, index = max(length, needed), len(packs)
            packs.append([row])
        insort(room, (free - needed, index))
    return packs


def padded_batch(rows: Sequence[TokenRow]) -> dict[str, Any]:
    """Return the rows of a micro-batch, padded at the end; padding is told from tokens by its position alone."""
    length = max(len(row.tokens) for row in rows)
    return {
        "input_ids": torch.tensor([_filled(row.tokens, length, 0) for row in rows]),
        "attention_mask": torch.tensor([_filled([1] * len(row.tokens), length, 0) for row in rows]),
        "labels": torch.tensor([_filled(_labels(row), length, IGNORED) for row in rows]),
        "rows": [row.row for row in rows],
    }


def packed_batch(packs: Sequence[Sequence[TokenRow]]) -> dict[str, Any]:
    """Return one sequence of several rows, none of which sees another.

    transformers isolates them by positions that start again, if there is neither an attention mask nor a cache.
    """
    (rows,) = packs
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row.tokens]]),
        "position_ids": torch.tensor([[position for row in rows for position in range(len(row.tokens))]]),
        "labels": torch.tensor([[label for row in rows for label in _labels(row)]]),
        "use_cache": False,
        "rows": [row.row for row in rows],
    }


def _labels(row: TokenRow) -> list[int]:
    """Return the tokens to predict. Nothing predicts the first one."""
    return [IGNORED, *row.labels[1:]]


def _filled(values: Sequence[int], length: int, filler: int) -> list[int]:
    return [*values, *([filler] * (length - len(values)))]


def count_trained(rows: Sequence[TokenRow]) -> int:
    """Return how many tokens are trained."""
    return sum(label != IGNORED for row in rows for label in _labels(row))
