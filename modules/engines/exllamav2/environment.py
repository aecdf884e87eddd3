"""Predict what ExLlamaV2 will find to compute with, without importing it or torch.

Importing it may compile its kernels, which takes minutes.
"""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache
from importlib.machinery import PathFinder

from modules.engines.exllamav2.arguments import Environment
from modules.system import gpus

KERNELS = "exllamav2_ext"
AMPERE = 8
"""Oldest major compute capability that flash-attention 2 supports."""
_FIRST_PAGED_VERSION = (2, 5, 7)


@cache
def likely_environment() -> Environment:
    flash = all(map(installed, ("flash_attn", "flash_attn_2_cuda")))
    paged = flash and _version("flash-attn") >= _FIRST_PAGED_VERSION
    return Environment(flash, paged, installed("xformers"), len(gpus.nvidia_gpus()))


def installed(package: str) -> bool:
    return PathFinder.find_spec(package) is not None


def _version(distribution: str) -> tuple[int, ...]:
    """Return the installed version; a package without one counts as new."""
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return _FIRST_PAGED_VERSION
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
