"""A model with autoawq's fused layers, which keep their keys and values in caches of their own.

Every fused attention has one cache and the position at which it continues. We set both before every forward pass, so
that several caches can exist: an answer's and its negative prompt's. The fused layers cannot evaluate several tokens
at once after others (these would attend only to each other), so a prompt is evaluated whole and from its beginning; and
they cannot hold rows of different lengths, so one answer runs at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modules.engines.autoawq.package import attn
from modules.engines.hf.evaluator import PrefixStore
from modules.engines.hf.model import Model


@dataclass(eq=False)
class FusedCache:
    """One of autoawq's caches per fused attention, each with keys and values of `length` tokens."""

    layers: list[Any]
    length: int = 0


def fused_layers(module: torch.nn.Module) -> list[Any]:
    """Return the fused attention layers; empty if autoawq cannot fuse this architecture."""
    return [layer for layer in module.modules() if isinstance(layer, attn.QuantAttentionFused)]


class FusedModel(Model):
    """A model whose attention layers autoawq has fused."""

    def __init__(self, name: str, tokenizer: Any, module: Any) -> None:
        super().__init__(name, tokenizer, module)
        self.can_batch = False
        self._attentions = fused_layers(module)
        self._counters = [layer for layer in module.modules() if hasattr(layer, "last_forward_num_tokens")]
        self._spare = [FusedCache([attention.cache for attention in self._attentions])]

    def forward(self, tokens: Sequence[int], cache: Any, encoder_output: Any = None, last: int = 1) -> Tensor:
        assert not cache.length or len(tokens) == 1
        for attention, layer_cache in zip(self._attentions, cache.layers, strict=True):
            attention.cache, attention.start_pos = layer_cache, cache.length
        for counter in self._counters:  # or a prompt one token longer than the previous one may pass for its next step
            counter.last_forward_num_tokens = 0
        logits = self._logits({"input_ids": torch.tensor([tokens], device=self.device)}, None, encoder_output, last)[0]
        cache.length += len(tokens)
        return logits

    def new_cache(self) -> FusedCache:
        if not self._spare:
            return FusedCache([_zeros_like(attention.cache) for attention in self._attentions])
        cache = self._spare.pop()
        cache.length = 0
        return cache

    def new_prefix_store(self, max_bytes: int) -> PrefixStore:
        """Return a store that keeps no prefixes, only the memory of caches."""
        return _CacheRecycler(self)

    def recycle(self, cache: FusedCache) -> None:
        self._spare.append(cache)

    def truncate(self, cache: Any, length: int) -> tuple[Any, int]:
        cache.length = 0
        return cache, 0

    def can_truncate(self, cache: Any) -> bool:
        return False

    def must_prefill_at_once(self, _cache: Any) -> bool:
        return True


class _CacheRecycler(PrefixStore):
    def __init__(self, model: FusedModel) -> None:
        self._model = model

    def take(self, tokens: list[int]) -> tuple[FusedCache, int]:
        return self._model.new_cache(), 0

    def store(self, tokens: list[int], cache: Any) -> None:
        self._model.recycle(cache)

    def clear(self) -> None: ...


def _zeros_like(cache: Any) -> Any:
    """Return a cache of one layer with the shapes of another."""
    new = copy.copy(cache)
    new.k, new.v = torch.zeros_like(cache.k), torch.zeros_like(cache.v)
    return new
