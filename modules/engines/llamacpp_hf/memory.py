"""Memory of a GGUF model under llamacpp_HF: that of llama.cpp, and of torch and transformers beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from modules.engines.llamacpp import memory as llamacpp
from modules.engines.memory import Estimate, Options
from modules.formats.gguf_header import GgufHeader

_TORCH_BYTES = 219_000_000  # torch and transformers, measured by benchmarks/estimate.py


def placed(header: GgufHeader, options: Options, gpus: Sequence[int] = ()) -> tuple[Estimate, ...]:
    """Estimate what main memory will hold, then each GPU."""
    main, *cards = llamacpp.placed(header, options, gpus)
    return replace(main, other=main.other + _TORCH_BYTES), *cards


def freed(header: GgufHeader, options: Options, gpus: Sequence[int] = ()) -> list[int]:
    """Return the bytes of main memory, then of each GPU, that unloading makes available."""
    main, *cards = llamacpp.freed(header, options, gpus)
    return [main + _TORCH_BYTES, *cards]


def remedies(header: GgufHeader, options: Options, free: Sequence[int]) -> Iterator[Options]:
    """Yield changes of options with which the model fits into `free`."""
    return llamacpp.remedies(header, options, _without_torch(free))


def largest_context(header: GgufHeader, options: Options, free: Sequence[int]) -> int:
    """Return the largest n_ctx, in tokens, that fits into `free`; 0 if none does."""
    return llamacpp.largest_context(header, options, _without_torch(free))


def _without_torch(free: Sequence[int]) -> list[int]:
    return [free[0] - _TORCH_BYTES, *free[1:]]
