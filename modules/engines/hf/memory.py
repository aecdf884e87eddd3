"""Memory of a model under Transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modules.engines.hf import memory_prequantized, memory_unquantized
from modules.engines.hf.arguments import compute_dtype, runs_on_cpu
from modules.engines.hf.memory_parts import DTYPE_BYTES, context_length
from modules.engines.hf.memory_prequantized import Kernels, Load
from modules.engines.hf.memory_unquantized import weight_limits
from modules.engines.memory import Estimate, Options, fits, last_fitting
from modules.formats.model_shape import ModelShape
from modules.options.option import size_in_bytes

_GPTQMODEL = Kernels(libraries=120_000_000, cpu_bits=(4,), unpacking=14, reads_files_in_place=True)


def placed(shape: ModelShape, options: Options, gpus: Sequence[int] = (), tokens: int = 0) -> tuple[Estimate, ...]:
    """Estimate what main memory will hold at most, then each GPU, with `tokens` prefilled; 0 is a full context."""
    if not shape.method:
        return memory_unquantized.placed(shape, options, gpus, tokens)
    on_cpu = runs_on_cpu(options, gpus)
    limited = options["cpu_memory"] and options["disk"]
    load = Load(
        on_cpu,
        len(gpus),
        weight_limits(options, shape.method, gpus),
        tokens or context_length(shape, options),
        width=DTYPE_BYTES[compute_dtype(options, shape.method, on_cpu)],
        main_limit=size_in_bytes(str(options["cpu_memory"])) if limited else None,
    )
    return memory_prequantized.placed(shape, _GPTQMODEL, load)


def freed(shape: ModelShape, options: Options, gpus: Sequence[int] = ()) -> list[int]:
    """Return the bytes of main memory, then of each GPU, that unloading makes available."""
    if not shape.method:
        return memory_unquantized.freed(shape, options, gpus)
    return [need.total for need in placed(shape, options, gpus)]


def remedies(shape: ModelShape, options: Options, free: Sequence[int]) -> Iterator[Options]:
    """Yield changes of options with which the model fits into `free`."""
    if not shape.method:
        return memory_unquantized.remedies(shape, options, free)
    return last_fitting([{"bf16": True}], options, lambda changed: fits(placed(shape, changed, free[1:]), free))
