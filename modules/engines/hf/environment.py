"""Whether there is a GPU, told without importing torch, which takes two seconds and 200 MB.

A PyTorch that was built for the CPU says so in its files, and then nothing else matters. Otherwise the drivers tell
(`gpus`). Loading asks PyTorch itself: the two differ where driver and PyTorch do not fit each other, and by what other
models hold of the cards meanwhile.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from modules.engines.hf import compiled_extensions
from modules.engines.hf.arguments import Environment
from modules.system import cpu_memory, gpus

_WANTED = (
    *("flash_attn", "gptqmodel", "bitsandbytes", "triton", "awq_ext", "awq_v2_ext", "marlin_cuda"),
    *("exllamav2_kernels", "exllama_kernels", "autogptq_cuda_64"),
)
_TOOLKITS = Path("C:/Program Files/NVIDIA GPU Computing Toolkit/CUDA")


def environment_with(sizes: Iterable[int]) -> Environment:
    return Environment(tuple(sizes), cpu_memory.total_memory(), _installed(), _lacks_nvcc())


@cache
def _installed() -> frozenset[str]:
    """Once in a process: the form asks with every change, and some of their files have to be searched."""
    return frozenset(filter(compiled_extensions.likely, _WANTED))


def _lacks_nvcc() -> bool:
    """A PyTorch for AMD's GPUs compiles with another program."""
    return nvcc() is None and gpus.torch_build()[0] != "hip"


def nvcc() -> str | None:
    """Where it is, if it is where `torch.utils.cpp_extension` looks for the CUDA toolkit."""
    if home := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return shutil.which("nvcc", path=str(Path(home, "bin")))
    usual = (Path("/usr/local/cuda"), *_TOOLKITS.glob("v*.*"))
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join(str(each / "bin") for each in usual))


@cache
def _cards() -> gpus.Gpus:
    return gpus.Gpus(gpus.of_torch)


def likely_environment() -> Environment:
    """What PyTorch will most likely find."""
    return environment_with(card.free for card in _cards().now())
