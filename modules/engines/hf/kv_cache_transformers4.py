"""The cache that transformers has since version 5, layer by layer, for the version 4 of overlays/legacy.

Only what `hf_cache` builds on: layers that can be put in, cut and counted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import cache_utils

_Cache: Any = cache_utils.Cache


class DynamicLayer:
    """Keys and values, shape (rows, heads, tokens, size), None until there are any."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.is_initialized = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        self.keys = torch.cat([self.keys, key_states], dim=-2)
        self.values = torch.cat([self.values, value_states], dim=-2)
        return self.keys, self.values


class LinearAttentionCacheLayerMixin:
    """Of a layer that keeps a state in place of the tokens, which no cache of that version has."""


class DynamicCache(_Cache):  # type: ignore[misc]
    """`config` says how many layers there are."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.layers = [DynamicLayer() for _ in range(getattr(config, "num_hidden_layers", 0))]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: Any = None
    ) -> tuple[Tensor, Tensor]:
        return self.layers[layer_idx].update(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        keys = self.layers[layer_idx].keys if layer_idx < len(self.layers) else None
        return 0 if keys is None else int(keys.shape[-2])

    def get_max_cache_shape(self) -> None:
        """As many tokens as memory holds."""

    def crop(self, max_length: int) -> None:
        """Drop all tokens beyond so many; if it is negative, so many at the end."""
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                length = max_length if max_length >= 0 else layer.keys.shape[-2] + max_length
                layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]

    @property
    def is_croppable(self) -> bool:
        return True
