"""Memory of an EXL2 or GPTQ model under ExLlamaV2, for both of its loaders.

What GPUs hold follows the source of exllamav2 0.3.2 alone: it needs a GPU, and nothing was measured on one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from modules.engines.exllamav2.arguments import cache_class, gpu_split
from modules.engines.hf import memory_parts
from modules.engines.hf.memory_prequantized import HALF, weight_bytes
from modules.engines.memory import (
    CUDA_CONTEXT_BYTES,
    UNLIMITED,
    Estimate,
    Options,
    distribute,
    fits,
    last_fitting,
    on_devices,
    shorter_contexts,
)
from modules.formats.model_shape import ModelShape

_CACHE_BITS = {"ExLlamaV2Cache_Q4": 4.5, "ExLlamaV2Cache_Q8": 8.5, "ExLlamaV2Cache": 16.0}
"""Bits of each number in the KV cache, scales included."""
_PREFILL_CHUNK = 2048
"""Tokens that ExLlamaV2 prefills at once, at most (max_input_len)."""
_MAX_UNPACKED_WEIGHTS = 512 << 20
"""Weights of a layer, at most, that ExLlamaV2 unpacks at once."""


def placed(shape: ModelShape, options: Options, gpus: Sequence[int] = (), tokens: int = 0) -> tuple[Estimate, ...]:
    """Estimate what main memory will hold at most, then each GPU.

    The embeddings stay in main memory; where they also serve as the output, they are on a GPU as well. The KV cache is
    allocated at once for the whole context, and a quantized one with a buffer in 16 bits for one layer on each GPU.
    """
    tokens = tokens or context_length(shape, options)
    embeddings = shape.vocab_size * shape.hidden_size * HALF
    weights = max(weight_bytes(shape) - (embeddings if shape.sizes.has_output else 0), 1)
    cache, layer_buffer = _cache_bytes(shape, options, tokens)
    compute = memory_parts.activation_bytes(shape, HALF, min(tokens, _PREFILL_CHUNK), tokens)
    fixed = layer_buffer + compute + _unpacking_bytes(shape, with_output=True) + CUDA_CONTEXT_BYTES
    shares = distribute(weights, _gpu_limits(options, gpus, fixed, 1 + cache / weights), len(gpus))
    if gpus:  # what the GPUs cannot hold cannot stay in main memory: the last one lacks it
        shares[-1] += shares[0]
        shares[0] = 0
    first, *rest = on_devices(shares, cache, compute, memory_parts.library_bytes(shape))
    first = replace(first, weights=first.weights + embeddings)
    buffers = _unpacking_buffers(shape, options, shares[1:])
    return first, *(
        replace(card, cache=card.cache + layer_buffer, compute=card.compute + buffer) if card.weights else card
        for card, buffer in zip(rest, buffers, strict=True)
    )


def freed(shape: ModelShape, options: Options, gpus: Sequence[int] = ()) -> list[int]:
    """Return the bytes of main memory, then of each GPU, that unloading makes available."""
    return [need.total for need in placed(shape, options, gpus)]


def remedies(shape: ModelShape, options: Options, free: Sequence[int]) -> Iterator[Options]:
    """Yield changes with which the model fits into `free`: all GPUs, a quantized KV cache, a shorter context."""
    changes: list[Options] = [{"autosplit": True}, {"cache_8bit": True}, {"cache_4bit": True}]
    changes += [{"max_seq_len": tokens} for tokens in shorter_contexts(context_length(shape, options))]
    return last_fitting(changes, options, lambda changed: fits(placed(shape, changed, free[1:]), free))


def context_length(shape: ModelShape, options: Options) -> int:
    """Return max_seq_len or, if it is 0, the model's own context length with RoPE scaling by `options`."""
    return int(options["max_seq_len"]) or memory_parts.context_length(shape, options)


def _cache_bytes(shape: ModelShape, options: Options, tokens: int) -> tuple[int, int]:
    """Return the bytes of the KV cache, and of the buffer for one layer of it in 16 bits if it is quantized."""
    bits = _CACHE_BITS[cache_class(options)]
    numbers = 2 * shape.kv_heads * shape.head_dim * tokens * (2 if options["cfg_cache"] else 1)  # of one layer
    return int(numbers * shape.attention_layers * bits / 8), numbers * HALF if bits < 8 * HALF else 0


def _gpu_limits(options: Options, gpus: Sequence[int], fixed: int, with_cache: float) -> list[int]:
    """Return the bytes of weights that each GPU takes at most; without autosplit and gpu_split, the first takes all.

    autosplit fills one GPU after the other, except its `fixed` bytes, with layers that are `with_cache` times as large
    as their weights.
    """
    if options["autosplit"]:
        return [max(int((free - fixed) / with_cache), 0) for free in gpus]
    return [int(gib * (1 << 30)) for gib in gpu_split(options)] or [UNLIMITED]


def _unpacking_buffers(shape: ModelShape, options: Options, shares: Sequence[int]) -> list[int]:
    """Return each GPU's bytes of the unpacking buffer. The last one used has the output, with autosplit each has."""
    last = max((gpu for gpu, share in enumerate(shares) if share), default=0)
    autosplit = bool(options["autosplit"])
    return [_unpacking_bytes(shape, with_output=autosplit or gpu == last) for gpu in range(len(shares))]


def _unpacking_bytes(shape: ModelShape, with_output: bool) -> int:
    """Return the bytes of the buffer for the largest layer. The output needs it as well, packed or not."""
    widest = max(shape.intermediate_size, shape.heads * shape.head_dim, shape.vocab_size if with_output else 0)
    return HALF * min(shape.hidden_size * widest, _MAX_UNPACKED_WEIGHTS)
