"""Memory of a GPTQ model under AutoGPTQ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modules.engines.autogptq.arguments import KERNEL_BITS
from modules.engines.hf.arguments import DEFAULT_CONTEXT
from modules.engines.hf.memory_prequantized import Kernels
from modules.engines.legacy import memory
from modules.engines.memory import Estimate, Options
from modules.formats.model_shape import ModelShape

_KERNELS = Kernels(libraries=0, cpu_bits=KERNEL_BITS, unpacking=14, unpacks_on_gpu=True, repacking=12, output=2)


def placed(shape: ModelShape, options: Options, gpus: Sequence[int] = (), tokens: int = 0) -> tuple[Estimate, ...]:
    """Estimate what main memory will hold at most, then each GPU, with `tokens` prefilled; 0 is a full context."""
    return memory.placed(shape, _KERNELS, options, gpus, tokens or shape.context_length or DEFAULT_CONTEXT)


def freed(shape: ModelShape, options: Options, gpus: Sequence[int] = ()) -> list[int]:
    """Return the bytes of main memory, then of each GPU, that unloading makes available."""
    return [need.total for need in placed(shape, options, gpus)]


def remedies(shape: ModelShape, options: Options, free: Sequence[int]) -> Iterator[Options]:
    """Yield nothing: no option of AutoGPTQ makes a model smaller."""
    return iter(())
