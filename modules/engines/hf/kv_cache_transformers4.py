"""The layered cache of transformers 5 for transformers 4, which overlays/legacy installs.

It has only what `kv_cache` uses: layers that can be replaced, cropped and counted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import cache_utils

_Cache: Any = cache_utils.Cache


class DynamicLayer:
    """Keys and values [rows, heads, tokens, head size], None until there are any."""

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
    """Marks layers with a recurrent state, of which transformers 4 has none in its caches."""


class DynamicCache(_Cache):  # type: ignore[misc]
    """A cache with as many layers as `config` says."""

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
        """Return None: the cache has no maximum length."""

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` tokens; if it is negative, drop as many at the end."""
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                length = max_length if max_length >= 0 else layer.keys.shape[-2] + max_length
                layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]

    @property
    def is_croppable(self) -> bool:
        return True
