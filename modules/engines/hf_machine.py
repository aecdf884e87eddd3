"""Whether there is a GPU, told without importing torch, which takes two seconds and 200 MB.

A PyTorch that was built for the CPU says so in its version, and then nothing else matters. Otherwise the drivers tell
(`gpus`). Loading asks PyTorch itself; the two can differ only where driver and PyTorch do not fit each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from modules import gpus, machine
from modules.engines import compiled
from modules.engines.hf_arguments import Machine

_WANTED = (
    *("flash_attn", "gptqmodel", "bitsandbytes", "triton", "awq_ext", "awq_v2_ext", "marlin_cuda"),
    *("exllamav2_kernels", "exllama_kernels", "autogptq_cuda_64"),
)


def machine_with(gpus: Iterable[int]) -> Machine:
    return Machine(tuple(gpus), machine.total_memory(), frozenset(filter(compiled.likely, _WANTED)))


@cache
def likely_machine() -> Machine:
    """What PyTorch will most likely find."""
    if not gpus.torch_uses_them():
        return machine_with(())
    cards = gpus.amd() if gpus.torch_build().startswith("rocm") else gpus.nvidia()
    return machine_with(card.total for card in cards)
