"""Whether there is a GPU, told without importing torch, which takes two seconds and 200 MB.

A PyTorch that was built for the CPU says so in its version, and then nothing else matters. Otherwise the driver's own
program tells how many GPUs there are and how large they are. Loading asks PyTorch itself; the two can differ only where
driver and PyTorch do not fit each other.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from modules import machine
from modules.engines.hf_arguments import Machine

_WANTED = ("flash_attn", "gptqmodel", "bitsandbytes")
_ASK = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")  # MiB, a line each
_AMD = Path("/sys/class/drm")


def machine_with(gpus: Iterable[int]) -> Machine:
    installed = frozenset(name for name in _WANTED if importlib.util.find_spec(name) is not None)
    return Machine(tuple(gpus), machine.total_memory(), installed)


@cache
def likely_machine() -> Machine:
    """What PyTorch will most likely find."""
    try:
        build = importlib.metadata.version("torch").partition("+")[2]
    except importlib.metadata.PackageNotFoundError:
        return machine_with(())
    if build == "cpu":
        return machine_with(())
    return machine_with(_amd() if build.startswith("rocm") else _nvidia())


def _nvidia() -> list[int]:
    try:
        told = subprocess.run(_ASK, capture_output=True, text=True, timeout=10, check=True).stdout
        return [int(line) << 20 for line in told.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _amd() -> list[int]:
    return [int(path.read_text()) for path in sorted(_AMD.glob("card*/device/mem_info_vram_total"))]
