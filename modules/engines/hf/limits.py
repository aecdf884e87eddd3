"""Sizes that the engine works with and the memory estimate counts."""

from __future__ import annotations

PREFILL_CHUNK = 512
"""Tokens of a prompt that a step prefills while no other request is decoding."""
PREFILL_CHUNK_8BIT = 256
"""The same for models that bitsandbytes quantized to 8 bits: as fast as 512, with half the gaps in the heap."""
KV_SPARE_TOKENS = 256
"""Tokens of free space that a KV cache buffer has at least when it is allocated."""

MIN_BATCH, MAX_BATCH = 4, 16
"""Answers in progress at once: these at least and at most, by memory; further requests wait."""


def batch_size(context_bytes: int, free: int) -> int:
    """Return the number of answers in progress at once: as many full contexts as half of the `free` bytes holds."""
    return max(MIN_BATCH, min(MAX_BATCH, free // 2 // max(context_bytes, 1)))


def kv_buffer_length(tokens: int) -> int:
    """Return how many tokens a KV cache buffer is allocated for, once it has to hold `tokens`."""
    return tokens + max(KV_SPARE_TOKENS, tokens // 4)
