"""A model with autoawq's fused layers, which keep what they have computed in caches of their own.

Each fused attention has one cache and the place where it goes on. We put ours there before every pass, so that there
can be several of them: an answer's and its negative prompt's. What they cannot do: read several tokens at once after
others (they would see nothing but each other), so a prompt is read whole and from its beginning; and hold rows of
different lengths, so one answer is written at a time.
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
class Stores:
    """One cache for each fused attention; their first `length` places hold something."""

    each: list[Any]
    length: int = 0


def fused_layers(module: torch.nn.Module) -> list[Any]:
    """None, if the package cannot fuse this kind of model."""
    return [each for each in module.modules() if isinstance(each, attn.QuantAttentionFused)]


class FusedModel(Model):
    def __init__(self, name: str, tokenizer: Any, module: Any) -> None:
        super().__init__(name, tokenizer, module)
        self.can_batch = False
        self._attentions = fused_layers(module)
        self._counters = [each for each in module.modules() if hasattr(each, "last_forward_num_tokens")]
        self._spare = [Stores([each.cache for each in self._attentions])]

    def forward(self, tokens: Sequence[int], cache: Any, encoder_output: Any = None, last: int = 1) -> Tensor:
        assert not cache.length or len(tokens) == 1
        for attention, store in zip(self._attentions, cache.each, strict=True):
            attention.cache, attention.start_pos = store, cache.length
        for counter in self._counters:  # else it may take a prompt of one token more than the last for a repetition
            counter.last_forward_num_tokens = 0
        logits = self._logits({"input_ids": torch.tensor([tokens], device=self.device)}, None, encoder_output, last)[0]
        cache.length += len(tokens)
        return logits

    def new_cache(self) -> Stores:
        if not self._spare:
            return Stores([_empty_like(each.cache) for each in self._attentions])
        found = self._spare.pop()
        found.length = 0
        return found

    def new_prefix_store(self, max_bytes: int) -> Any:
        """Nothing is kept for a later turn, but the caches are used again."""
        return _Returned(self)

    def give_back(self, cache: Stores) -> None:
        self._spare.append(cache)

    def truncate(self, cache: Any, length: int) -> tuple[Any, int]:
        cache.length = 0
        return cache, 0

    def can_truncate(self, cache: Any) -> bool:
        return False

    def must_prefill_at_once(self, _cache: Any) -> bool:
        return True


class _Returned(PrefixStore):
    def __init__(self, model: FusedModel) -> None:
        self._model = model

    def take(self, tokens: list[int]) -> tuple[Stores, int]:
        return self._model.new_cache(), 0

    def store(self, tokens: list[int], cache: Any) -> None:
        self._model.give_back(cache)

    def clear(self) -> None: ...


def _empty_like(store: Any) -> Any:
    made = copy.copy(store)
    made.k, made.v = torch.zeros_like(store.k), torch.zeros_like(store.v)
    return made
