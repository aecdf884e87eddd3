"""Memory of an AWQ model under AutoAWQ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modules.engines.autoawq.arguments import context_length
from modules.engines.hf.arguments import DEFAULT_CONTEXT
from modules.engines.hf.memory_prequantized import Kernels
from modules.engines.legacy import memory
from modules.engines.memory import Estimate, Options, fits, last_fitting, shorter_contexts
from modules.formats.model_shape import ModelShape

_KERNELS = Kernels(libraries=0, output=2)


def placed(shape: ModelShape, options: Options, gpus: Sequence[int] = (), tokens: int = 0) -> tuple[Estimate, ...]:
    """Estimate what main memory will hold at most, then each GPU, with `tokens` prefilled; 0 is a full context."""
    return memory.placed(shape, _KERNELS, options, gpus, tokens or _context_length(shape, options))


def freed(shape: ModelShape, options: Options, gpus: Sequence[int] = ()) -> list[int]:
    """Return the bytes of main memory, then of each GPU, that unloading makes available."""
    return [need.total for need in placed(shape, options, gpus)]


def remedies(shape: ModelShape, options: Options, free: Sequence[int]) -> Iterator[Options]:
    """Yield the longest shorter context with which the model fits into `free`."""
    changes = ({"max_seq_len": tokens} for tokens in shorter_contexts(_context_length(shape, options)))
    return last_fitting(changes, options, lambda changed: fits(placed(shape, changed, free[1:]), free))


def _context_length(shape: ModelShape, options: Options) -> int:
    return context_length(options, shape.context_length or DEFAULT_CONTEXT)
