"""Memory of a model under AutoGPTQ or AutoAWQ, which compute in 16 bits."""

from __future__ import annotations

from collections.abc import Sequence

from modules.engines.hf import memory_prequantized
from modules.engines.hf.arguments import gpu_limits, runs_on_cpu
from modules.engines.hf.memory_prequantized import Kernels, Load
from modules.engines.legacy.arguments import is_spread
from modules.engines.memory import UNLIMITED, Estimate, Options
from modules.formats.model_shape import ModelShape
from modules.options.option import size_in_bytes


def placed(
    shape: ModelShape, kernels: Kernels, options: Options, gpus: Sequence[int], tokens: int
) -> tuple[Estimate, ...]:
    """Estimate what main memory will hold at most, then each GPU, with `tokens` in the KV cache."""
    offloads_to_disk = options["cpu_memory"] and options.get("disk")
    load = Load(
        runs_on_cpu(options, gpus),
        len(gpus),
        gpu_limits(options, gpus) if is_spread(options, on_cpu=False) else [UNLIMITED],
        tokens,
        main_limit=size_in_bytes(str(options["cpu_memory"])) if offloads_to_disk else None,
    )
    return memory_prequantized.placed(shape, kernels, load)
