"""LongRoPE (arXiv 2402.13753), as Phi-3 and Phi-4 have it: texts beyond a length rotate all of their keys otherwise.

Transformers tells the length from the largest position of a forward pass. That is too little where a prompt is
evaluated in chunks, and one row of a batch would decide for the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor


class LongRope:
    """The rotary embeddings of `module` that change beyond `limit` tokens, which is None if there are none."""

    def __init__(self, module: Any) -> None:
        parts = [part for part in module.modules() if getattr(part, "rope_type", None) == "longrope"]
        self.limit = _limit(parts[0].config) if parts else None
        self._is_long = False
        for part in parts:
            part.forward = partial(self._forward, part.forward)

    @contextlib.contextmanager
    def long(self, is_long: bool) -> Iterator[None]:
        """Have forward passes evaluate the beginning of a text beyond the limit, if `is_long`."""
        self._is_long = is_long
        try:
            yield
        finally:
            self._is_long = False

    def _forward(self, original: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines for `position_ids` [rows, tokens], those of each row by its own length."""
        limit = self.limit
        assert limit is not None
        if self._is_long:
            beyond = position_ids.new_full((len(position_ids), 1), limit)
            cos, sin = original(x, torch.cat([position_ids, beyond], dim=1))
            return cos[:, :-1], sin[:, :-1]
        is_long = position_ids.amax(dim=1) >= limit
        if bool(is_long.all()) or not bool(is_long.any()):
            both: tuple[Tensor, Tensor] = original(x, position_ids)
            return both
        rows = [original(x, position_ids[row : row + 1]) for row in range(len(position_ids))]
        cos, sin = (torch.cat(side) for side in zip(*rows, strict=True))
        return cos, sin


def _limit(config: Any) -> int:
    parameters = getattr(config, "rope_parameters", None) or {}  # transformers 5
    limit = parameters.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return int(limit or config.max_position_embeddings)
