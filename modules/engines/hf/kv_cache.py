"""KV caches: what a model computed for the tokens so far, for one answer or for several rows.

The cache of transformers copies all of its content for every new token, and keeps one length for all rows. Ours has
spare room to grow into, and rows of different lengths end at the same position: the padding on the left is masked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor
from transformers import EncoderDecoderCache

from modules.engines.hf.evaluator import PrefixStore
from modules.engines.hf.limits import kv_buffer_length
from modules.engines.token_ids import common_prefix_length
from modules.system import cpu_memory

if TYPE_CHECKING or int(transformers.__version__.partition(".")[0]) >= 5:
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin
else:
    from modules.engines.hf.kv_cache_transformers4 import DynamicCache, DynamicLayer, LinearAttentionCacheLayerMixin

MAX_PREFIXES = 8
"""Ended answers whose caches are kept for their next turn."""
PREFIX_CACHE_BYTES = 2 << 30
"""Upper limit of the memory for these caches."""


class GrowableLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values [rows, heads, tokens, head size]: views of the beginning of buffers with room for more tokens."""

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
        """Append the states of new tokens; return the keys and values of all tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        begin = self.keys.shape[-2]
        end = begin + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = (_grow(self.keys, end), _grow(self.values, end))
        keys, values = self._buffers
        keys[:, :, begin:end] = key_states
        values[:, :, begin:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    @property
    def bytes(self) -> int:
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers) if self.is_initialized else 0


def _grow(states: Tensor, length: int) -> Tensor:
    """Return a copy of `states` with room for `length` tokens and more."""
    rows, heads, tokens, size = states.shape
    buffer = states.new_empty((rows, heads, kv_buffer_length(length), size))
    buffer[:, :, :tokens] = states
    return buffer


def new_cache(config: Any, is_encoder_decoder: bool) -> Any:
    """Return an empty cache of the kind that fits a model with that configuration."""
    cache = DynamicCache(config=config)
    if is_encoder_decoder:
        return EncoderDecoderCache(cache, DynamicCache(config=config))
    if cache.layers and all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [GrowableLayer() for _ in cache.layers]
    return cache


def is_growable(cache: Any) -> bool:
    """Return whether all layers are growable: such a cache can be truncated anywhere, and padded."""
    return isinstance(cache, DynamicCache) and all(type(layer) is GrowableLayer for layer in cache.layers)


def token_bytes(cache: Any) -> int:
    """Return the bytes of keys and values for one token of one row, of a growable cache that holds some."""
    return sum(
        states.shape[1] * states.shape[3] * states.element_size()
        for layer in cache.layers
        for states in (layer.keys, layer.values)
    )


def truncate(cache: Any, length: int) -> bool:
    """Keep the first `length` tokens of every layer, which may hold different numbers. False if the cache cannot."""
    if not is_growable(cache):
        return False
    for layer in cache.layers:
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
    return True


def has_recurrent_state(cache: Any) -> bool:
    """Return whether a layer keeps a state instead of tokens, which only a prefill into an empty cache gets right."""
    layers = () if isinstance(cache, EncoderDecoderCache) else cache.layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def cache_of(layers: Sequence[GrowableLayer]) -> Any:
    """Return a cache of these layers."""
    cache = DynamicCache()
    cache.layers = list(layers)
    return cache


def prefix_cache_bytes(device: torch.device) -> int:
    """Return the limit for caches of ended answers, which lie on `device`: on a GPU a quarter of its free memory."""
    if device.type == "cuda":
        return min(PREFIX_CACHE_BYTES, free_memory(device) // 4)
    return min(PREFIX_CACHE_BYTES, cpu_memory.total_memory() // 16)


def free_memory(device: torch.device) -> int:
    """Return the bytes that caches on `device` may still take."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else cpu_memory.available_memory()


def merge_rows(caches: Sequence[Any], lengths: Sequence[int]) -> tuple[Any, list[int]]:
    """Merge caches of one row and of these lengths into one, padded on the left.

    Return it with the position at which each row starts.
    """
    longest = max(lengths)
    starts = [longest - length for length in lengths]
    layers = []
    for parts in zip(*(cache.layers for cache in caches), strict=True):
        keys, values = (_pad_left([getattr(part, side) for part in parts], starts) for side in ("keys", "values"))
        layer = GrowableLayer(keys, values)
        layer.keys, layer.values = keys[:, :, :longest], values[:, :, :longest]
        layers.append(layer)
    return cache_of(layers), starts


def _pad_left(rows: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
    """Return a buffer [rows, heads, tokens and spare room, head size] in which row r begins at `starts[r]`."""
    _, heads, _, size = rows[0].shape
    longest = max(row.shape[2] for row in rows)
    # The padding is masked, but 0 × NaN would still be NaN.
    buffer = rows[0].new_zeros((len(rows), heads, kv_buffer_length(longest), size))
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        buffer[number, :, start:longest] = row[0]
    return buffer


def extract_row(cache: Any, row: int, start: int, copy: bool) -> Any:
    """Return a cache of one row, without its padding: a copy, or a view of `cache`."""

    def extract(states: Tensor) -> Tensor:
        part = states[row : row + 1, :, start:]
        return part.clone() if copy else part

    return cache_of([GrowableLayer(extract(layer.keys), extract(layer.values)) for layer in cache.layers])


@dataclass(eq=False)
class CachedPrefix:
    """Tokens with the cache that holds them."""

    tokens: list[int]
    cache: Any

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.cache.layers) if is_growable(self.cache) else 0


class PrefixCache(PrefixStore):
    """The caches of ended answers, least recently used first; beyond `max_bytes` and MAX_PREFIXES those are dropped."""

    can_save = True

    def __init__(self, new_cache: Callable[[], Any], max_bytes: int) -> None:
        self._new_cache, self._max_bytes = new_cache, max_bytes
        self._prefixes: list[CachedPrefix] = []

    def take(self, tokens: list[int]) -> tuple[Any, int]:
        best = max(self._prefixes, key=lambda prefix: common_prefix_length(prefix.tokens, tokens), default=None)
        shared = min(common_prefix_length(best.tokens, tokens), len(tokens) - 1) if best else 0
        if self.files is not None and (found := self.files.read(tokens, shared)) is not None:
            return found
        if best is None or not shared:
            return self._new_cache(), 0
        surplus = len(best.tokens) - shared
        # Copy a short common prefix instead of truncating a long conversation to it.
        if is_growable(best.cache) and surplus > shared and (copy := _copy_prefix(best, shared)) is not None:
            return copy, shared
        self._prefixes.remove(best)
        return (best.cache, shared) if crop(best.cache, surplus) else (self._new_cache(), 0)

    def store(self, tokens: list[int], cache: Any) -> None:
        if not tokens or isinstance(cache, EncoderDecoderCache) or has_recurrent_state(cache):
            return
        self._prefixes.append(CachedPrefix(tokens, cache))
        while len(self._prefixes) > 1 and self._is_over_limits():
            del self._prefixes[0]

    def save(self, seconds: float, at_end: bool) -> Iterator[None]:
        if self.files is None:
            return iter(())
        prefixes = [(one.tokens, one.cache) for one in reversed(self._prefixes) if is_growable(one.cache)]
        return self.files.save(prefixes, seconds, at_end)

    def clear(self) -> None:
        self._prefixes.clear()

    def free_memory(self) -> bool:
        had_prefixes = bool(self._prefixes)
        self.clear()
        return had_prefixes

    def __len__(self) -> int:
        return len(self._prefixes)

    def _is_over_limits(self) -> bool:
        return len(self._prefixes) > MAX_PREFIXES or sum(prefix.bytes for prefix in self._prefixes) > self._max_bytes


def _copy_prefix(prefix: CachedPrefix, length: int) -> Any:
    """Return a cache with a copy of the first `length` tokens, None if the GPU has no memory for it."""
    try:
        layers = [
            (layer.keys[:, :, :length].clone(), layer.values[:, :, :length].clone()) for layer in prefix.cache.layers
        ]
    except torch.OutOfMemoryError:
        return None
    return cache_of([GrowableLayer(*layer) for layer in layers])


def crop(cache: Any, surplus: int) -> bool:
    """Drop the last `surplus` tokens of a cache. False if the cache cannot, which makes it useless."""
    if not surplus:
        return True
    try:
        with torch.inference_mode():
            cache.crop(-surplus)
    except (RuntimeError, ValueError, AttributeError):  # a sliding window that has moved on, a recurrent state
        return False
    return bool(cache.is_croppable)
