"""Predict what PyTorch will find to compute with, without importing it, which takes two seconds and 200 MB.

A PyTorch built for the CPU says so in its files; otherwise the drivers list the GPUs (`system.gpus`). Loading asks
PyTorch itself. The two differ where the driver does not match PyTorch, and by what other models hold of the GPUs
meanwhile.
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

_OPTIONAL_PACKAGES = (
    *("flash_attn", "gptqmodel", "bitsandbytes", "triton", "awq_ext", "awq_v2_ext", "marlin_cuda"),
    *("exllamav2_kernels", "exllama_kernels", "autogptq_cuda_64"),
)
_WINDOWS_TOOLKITS = Path("C:/Program Files/NVIDIA GPU Computing Toolkit/CUDA")


def likely_environment() -> Environment:
    """Return what PyTorch will most likely find."""
    return environment_with(card.free for card in _torch_gpus().current())


def environment_with(gpu_free_bytes: Iterable[int]) -> Environment:
    return Environment(tuple(gpu_free_bytes), cpu_memory.total_memory(), _usable_packages(), _lacks_nvcc())


@cache
def _torch_gpus() -> gpus.GpuMonitor:
    return gpus.GpuMonitor(gpus.torch_gpus)


@cache
def _usable_packages() -> frozenset[str]:
    """Return the optional packages that are usable. Cached, as some of their files have to be searched."""
    return frozenset(filter(compiled_extensions.seems_usable, _OPTIONAL_PACKAGES))


def _lacks_nvcc() -> bool:
    """Whether nvcc is missing; a PyTorch for AMD GPUs compiles with another program."""
    return nvcc() is None and gpus.torch_build()[0] != "hip"


def nvcc() -> str | None:
    """Return the path of nvcc, if it is where `torch.utils.cpp_extension` looks for the CUDA toolkit."""
    if home := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return shutil.which("nvcc", path=str(Path(home, "bin")))
    toolkits = (Path("/usr/local/cuda"), *_WINDOWS_TOOLKITS.glob("v*.*"))
    search_path = os.pathsep.join(str(toolkit / "bin") for toolkit in toolkits)
    return shutil.which("nvcc") or shutil.which("nvcc", path=search_path)
