"""KV caches of random keys and values: growing, padding rows, and reusing prefixes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modules.engines.hf import kv_cache
from modules.engines.hf.kv_cache import GrowableLayer, PrefixCache, extract_row, merge_rows
from modules.engines.hf.limits import KV_SPARE_TOKENS

pytestmark = pytest.mark.usefixtures("backend")

HEADS, SIZE = 2, 3


def states(tokens: int) -> torch.Tensor:
    return torch.randn(1, HEADS, tokens, SIZE)


def new_cache() -> Any:
    """Return an empty cache of two growable layers."""
    return kv_cache.cache_of([GrowableLayer(), GrowableLayer()])


def filled_cache(tokens: int) -> Any:
    cache = new_cache()
    for layer in cache.layers:
        layer.update(states(tokens), states(tokens))
    return cache


def keys(cache: Any) -> list[torch.Tensor]:
    return [layer.keys for layer in cache.layers]


def test_a_layer_grows_without_losing_its_tokens() -> None:
    layer, parts = GrowableLayer(), [states(length) for length in (5, 1, KV_SPARE_TOKENS, 1)]
    for part in parts:
        grown, _ = layer.update(part, part)
    assert torch.equal(grown, torch.cat(parts, dim=2))
    assert layer.bytes >= 2 * grown.numel() * grown.element_size()


def test_merged_rows_end_at_the_same_position_and_can_be_extracted() -> None:
    caches, lengths = [filled_cache(length) for length in (3, 7, 5)], [3, 7, 5]
    before = [keys(cache) for cache in caches]
    merged, starts = merge_rows(caches, lengths)
    assert starts == [4, 0, 2]
    for row, (start, rows) in enumerate(zip(starts, before, strict=True)):
        for copy in (True, False):
            extracted = keys(extract_row(merged, row, start, copy))
            assert all(torch.equal(actual, expected) for actual, expected in zip(extracted, rows, strict=True))


def test_a_prompt_that_continues_a_prefix_takes_its_cache() -> None:
    prefixes, cache = PrefixCache(new_cache, 1 << 30), filled_cache(4)
    prefixes.store([1, 2, 3, 4], cache)
    assert prefixes.take([1, 2, 3, 4, 5]) == (cache, 4)
    assert len(prefixes) == 0


def test_the_last_token_of_a_repeated_prompt_is_left_to_evaluate() -> None:
    prefixes = PrefixCache(new_cache, 1 << 30)
    prefixes.store([1, 2, 3, 4], filled_cache(4))
    cache, length = prefixes.take([1, 2, 3, 4])
    assert length == 3
    assert keys(cache)[0].shape[2] == 3


def test_a_short_common_prefix_is_copied_and_the_long_one_stays() -> None:
    prefixes, cache = PrefixCache(new_cache, 1 << 30), filled_cache(6)
    prefixes.store([1, 2, 3, 4, 5, 6], cache)
    copy, length = prefixes.take([1, 2, 9, 9])
    assert copy is not cache and length == 2
    assert torch.equal(keys(copy)[1], keys(cache)[1][:, :, :2])
    assert prefixes.take([1, 2, 3, 4, 5, 6, 7]) == (cache, 6)


def test_the_least_recently_used_prefixes_are_dropped_beyond_the_limits() -> None:
    size = sum(layer.bytes for layer in filled_cache(1).layers)
    by_count, by_bytes = PrefixCache(new_cache, 1 << 30), PrefixCache(new_cache, 2 * size)
    for number in range(kv_cache.MAX_PREFIXES + 2):
        by_count.store([number], filled_cache(1))
        by_bytes.store([number], filled_cache(1))
    assert (len(by_count), len(by_bytes)) == (kv_cache.MAX_PREFIXES, 2)
    assert by_bytes.take([0, 1])[1] == 0
    assert by_bytes.free_memory() and not by_bytes.free_memory()
