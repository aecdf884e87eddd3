"""What ExLlamaV2 will most likely find here, told without importing it or torch.

To import it may be to compile its kernels, which takes minutes.
"""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache
from importlib.machinery import PathFinder

from modules.engines.exllamav2.arguments import Here
from modules.system import gpus

KERNELS = "exllamav2_ext"
AMPERE = 8
"""The oldest major compute capability that flash-attention 2 runs on."""
_READS_PAGES = (2, 5, 7)


@cache
def likely_here() -> Here:
    flash = all(map(installed, ("flash_attn", "flash_attn_2_cuda")))
    paged = flash and _version("flash-attn") >= _READS_PAGES
    return Here(flash, paged, installed("xformers"), len(gpus.nvidia()))


def installed(package: str) -> bool:
    return PathFinder.find_spec(package) is not None


def _version(distribution: str) -> tuple[int, ...]:
    """What is installed without telling its version is taken for new."""
    try:
        told = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return _READS_PAGES
    return tuple(map(int, re.findall(r"\d+", told)[:3]))
