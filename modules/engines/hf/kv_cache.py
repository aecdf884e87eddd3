"""What a model has computed of the tokens so far, so that no token is evaluated twice: one answer's, or several rows'.

transformers' own cache copies all it holds for every new token, and keeps one length for all rows. Ours has room to
grow, and rows of different lengths end at the same place: what stands before a shorter one is masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor
from transformers import EncoderDecoderCache

from modules.engines.token_ids import common_prefix_length

if TYPE_CHECKING or int(transformers.__version__.partition(".")[0]) >= 5:
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin
else:
    from modules.engines.hf.kv_cache_transformers4 import DynamicCache, DynamicLayer, LinearAttentionCacheLayerMixin

ROOM = 256
"""Tokens for which there is room at least, once a buffer has to be made."""
MOST_KEPT = 8
"""Conversations that are kept for their next turn."""


class Growing(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values, shape (rows, heads, tokens, size): views of the beginning of buffers that have room for more."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values
            self._buffers = (keys, values)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self._buffers = (self.keys, self.values)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        begin = self.keys.shape[-2]
        end = begin + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = (_roomier(self.keys, end), _roomier(self.values, end))
        keys, values = self._buffers
        keys[:, :, begin:end] = key_states
        values[:, :, begin:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    @property
    def bytes(self) -> int:
        return sum(each.numel() * each.element_size() for each in self._buffers) if self.is_initialized else 0


def _roomier(held: Tensor, length: int) -> Tensor:
    rows, heads, tokens, size = held.shape
    made = held.new_empty((rows, heads, length + max(ROOM, length // 4), size))
    made[:, :, :tokens] = held
    return made


def fresh(config: Any, writes_apart: bool) -> Any:
    """An empty cache, of the kind that suits a model of that configuration."""
    cache = DynamicCache(config=config)
    if writes_apart:
        return EncoderDecoderCache(cache, DynamicCache(config=config))
    if cache.layers and all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [Growing() for _ in cache.layers]
    return cache


def grows(cache: Any) -> bool:
    """Whether it is of our own kind in all its layers: it can be cut anywhere, and padded."""
    return isinstance(cache, DynamicCache) and all(type(layer) is Growing for layer in cache.layers)


def cut_back(cache: Any, length: int) -> bool:
    """Let all layers hold so many tokens again, whatever each of them holds. False if they cannot."""
    if not grows(cache):
        return False
    for layer in cache.layers:
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
    return True


def sums_up(cache: Any) -> bool:
    """Whether a layer keeps a state in place of the tokens. Several tokens at once are read right from nothing only."""
    layers = () if isinstance(cache, EncoderDecoderCache) else cache.layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def _made_of(layers: Sequence[Growing]) -> Any:
    cache = DynamicCache()
    cache.layers = list(layers)
    return cache


def merged(caches: Sequence[Any], lengths: Sequence[int]) -> tuple[Any, list[int]]:
    """Several of one row as one of several rows, that all end at the same place; and where each of them begins."""
    longest = max(lengths)
    starts = [longest - length for length in lengths]
    layers = []
    for parts in zip(*(cache.layers for cache in caches), strict=True):
        keys, values = (_padded([getattr(part, side) for part in parts], starts) for side in ("keys", "values"))
        layers.append(_with_room(keys, values, longest))
    return _made_of(layers), starts


def _padded(rows: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
    _, heads, _, size = rows[0].shape
    longest = max(row.shape[2] for row in rows)
    # What stands before a row is masked, but 0 × NaN would still be NaN.
    made = rows[0].new_zeros((len(rows), heads, longest + max(ROOM, longest // 4), size))
    for place, (row, start) in enumerate(zip(rows, starts, strict=True)):
        made[place, :, start:longest] = row[0]
    return made


def _with_room(keys: Tensor, values: Tensor, length: int) -> Growing:
    layer = Growing(keys, values)
    layer.keys, layer.values = keys[:, :, :length], values[:, :, :length]
    return layer


def row(cache: Any, place: int, start: int, copy: bool) -> Any:
    """What one row of several holds; a view of it unless it is to be a copy."""

    def side(whole: Tensor) -> Tensor:
        part = whole[place : place + 1, :, start:]
        return part.clone() if copy else part

    return _made_of([Growing(side(layer.keys), side(layer.values)) for layer in cache.layers])


@dataclass(eq=False)
class Kept:
    tokens: list[int]
    cache: Any

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.cache.layers) if grows(self.cache) else 0


class Shelf:
    """Caches of answers that have ended, for what goes on from them. The one used last stands last."""

    def __init__(self, fresh: Callable[[], Any], budget: int) -> None:
        self._fresh, self._budget = fresh, budget
        self._kept: list[Kept] = []

    def take(self, tokens: list[int]) -> tuple[Any, int]:
        """A cache for `tokens`, and how many of them it holds: at least the last one must still be evaluated."""
        best = max(self._kept, key=lambda kept: common_prefix_length(kept.tokens, tokens), default=None)
        shared = min(common_prefix_length(best.tokens, tokens), len(tokens) - 1) if best else 0
        if best is None or not shared:
            return self._fresh(), 0
        surplus = len(best.tokens) - shared
        if grows(best.cache) and surplus > shared and (copy := _beginning(best, shared)) is not None:
            return copy, shared  # it is too good to be cut down
        self._kept.remove(best)
        return (best.cache, shared) if _cut(best.cache, surplus) else (self._fresh(), 0)

    def keep(self, tokens: list[int], cache: Any) -> None:
        """`cache` holds exactly `tokens`."""
        if not tokens or isinstance(cache, EncoderDecoderCache) or sums_up(cache):
            return
        self._kept.append(Kept(tokens, cache))
        while len(self._kept) > 1 and self._too_much():
            del self._kept[0]

    def clear(self) -> None:
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)

    def _too_much(self) -> bool:
        return len(self._kept) > MOST_KEPT or sum(kept.bytes for kept in self._kept) > self._budget


def _beginning(kept: Kept, length: int) -> Any:
    """A copy; None if the GPU has no memory for it."""
    try:
        layers = [
            (layer.keys[:, :, :length].clone(), layer.values[:, :, :length].clone()) for layer in kept.cache.layers
        ]
    except torch.OutOfMemoryError:
        return None
    return _made_of([Growing(*layer) for layer in layers])


def _cut(cache: Any, surplus: int) -> bool:
    """Drop so many tokens at the end. False if the cache cannot forget: then it is of no use any more."""
    if not surplus:
        return True
    try:
        with torch.inference_mode():
            cache.crop(-surplus)
    except (RuntimeError, ValueError, AttributeError):  # a window that has moved on, a state that sums up
        return False
    return bool(cache.is_croppable)
