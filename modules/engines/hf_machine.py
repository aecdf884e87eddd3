"""Whether there is a GPU, told without importing torch, which takes two seconds and 200 MB.

A PyTorch that was built for the CPU says so in its files, and then nothing else matters. Otherwise the drivers tell
(`gpus`). Loading asks PyTorch itself: the two differ where driver and PyTorch do not fit each other, and by what other
models hold of the cards meanwhile.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from functools import cache

from modules import gpus, machine
from modules.engines.hf_arguments import Machine

_WANTED = ("flash_attn", "gptqmodel", "bitsandbytes", "triton", "awq_ext", "awq_v2_ext", "marlin_cuda")


def machine_with(gpus: Iterable[int]) -> Machine:
    installed = frozenset(name for name in _WANTED if importlib.util.find_spec(name) is not None)
    return Machine(tuple(gpus), machine.total_memory(), installed)


@cache
def _cards() -> gpus.Gpus:
    return gpus.Gpus(gpus.of_torch)


def likely_machine() -> Machine:
    """What PyTorch will most likely find."""
    return machine_with(card.free for card in _cards().now())
