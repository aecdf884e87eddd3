"""Save KV caches of growable layers to files, and read them again.

The state in a file is that of one layer after the other: its keys, then its values, [heads, tokens, head size].
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from modules.core.events import Json
from modules.engines.hf.kv_cache import GrowableLayer, cache_of
from modules.engines.hf.limits import kv_buffer_length
from modules.engines.prompt_cache.prompt_file import DamagedFile, StateReader
from modules.engines.prompt_cache.store import PromptStore
from modules.engines.token_ids import common_prefix_length

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16)}


_WITHOUT_EFFECT = ("pretrained_model_name_or_path", "max_memory", "offload_folder")
"""Arguments of the model's call that change no keys and values.

Its files have a key of their own, and the folder may be one of links with another name each time.
"""


def state_facts(args: Mapping[str, Json], devices: Sequence[str]) -> Json:
    """Return on what keys and values depend besides the tokens, the model's files and the LoRAs.

    `args` are those of the call that loads the model, `devices` where its parts are.
    """
    kept = {name: value for name, value in args.items() if name not in _WITHOUT_EFFECT}
    return [kept, torch.__version__, transformers.__version__, list(devices)]


class PromptFiles:
    """`PrefixFiles` for a store of saved prompts."""

    def __init__(self, store: PromptStore) -> None:
        self._store = store

    def read(self, tokens: Sequence[int], held: int) -> tuple[Any, int] | None:
        wanted = array("i", tokens)
        prompt = self._store.find(wanted, held)
        if prompt is None:
            return None
        length = min(common_prefix_length(prompt.tokens, wanted), len(wanted) - 1)
        try:
            with self._store.reading(prompt) as reader:
                layers = [_read_layer(reader, length, *layer) for layer in _layers(reader.header.layout)]
        except (DamagedFile, torch.OutOfMemoryError):
            return None
        return cache_of(layers), length

    def save(self, prefixes: Sequence[tuple[list[int], Any]], seconds: float, at_end: bool) -> Iterator[None]:
        deadline = time.monotonic() + seconds
        self._store.drop_missing()
        for rank, (tokens, cache) in enumerate(prefixes):
            layout = [_describe(layer) for layer in cache.layers]
            size = sum(states.numel() * states.element_size() for states in _states(cache))
            if not all(layer[0] in _DTYPES for layer in layout):
                continue
            held = array("i", tokens)
            if self._store.is_worth_writing(held, size, at_end, deadline - time.monotonic()):
                yield from self._store.write(held, layout, size, map(_bytes_of, _states(cache)), rank)


def _states(cache: Any) -> Iterator[Tensor]:
    """Yield the keys and the values of all layers, in the order of a file."""
    for layer in cache.layers:
        yield layer.keys
        yield layer.values


def _describe(layer: Any) -> Json:
    """Return dtype, device, heads, and the sizes of a head of keys and of values."""
    keys, values = layer.keys, layer.values
    dtype = str(keys.dtype).removeprefix("torch.") if keys.dtype == values.dtype else ""
    return [dtype, str(keys.device), keys.shape[1], keys.shape[3], values.shape[3]]


def _bytes_of(states: Tensor) -> memoryview:
    """Return a copy in main memory of states [1, heads, tokens, head size]."""
    return _memory(states.detach().cpu().contiguous())


def _memory(states: Tensor) -> memoryview:
    """Return the memory of contiguous states as bytes."""
    return states.view(torch.uint8).flatten().numpy().data


def _layers(layout: Json) -> list[Any]:
    """Return the layers that a header describes. Raises DamagedFile if it does not."""
    if not isinstance(layout, list) or not layout:
        raise DamagedFile
    for layer in layout:
        if not isinstance(layer, list) or len(layer) != 5 or layer[0] not in _DTYPES:
            raise DamagedFile
    return layout


def _read_layer(
    reader: StateReader, length: int, dtype: str, device: str, heads: int, key_size: int, value_size: int
) -> GrowableLayer:
    """Read the next layer of a file, of which only the first `length` tokens are kept."""
    sides = [_read_side(reader, _DTYPES[dtype], device, heads, size, length) for size in (key_size, value_size)]
    layer = GrowableLayer(*sides)
    layer.keys, layer.values = (side[:, :, :length] for side in sides)
    return layer


def _read_side(reader: StateReader, dtype: torch.dtype, device: str, heads: int, size: int, length: int) -> Tensor:
    """Return a buffer [1, heads, tokens and spare room, head size] with the first `length` tokens of keys or values."""
    states = torch.empty((heads, reader.header.tokens, size), dtype=dtype)
    reader.read_into(_memory(states))
    buffer = torch.empty((1, heads, kv_buffer_length(length), size), dtype=dtype, device=device)
    buffer[0, :, :length] = states[:, :length].to(device)
    return buffer
