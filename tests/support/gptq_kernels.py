"""The kernels of gptqmodel that need no compiler, looked up by the names that the engine requests."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.forked import forked

NAMES = (
    ("gptq", "gptq", "gptq_triton"),
    ("gptq", "gptq", "gptq_torch"),
    ("awq", "gemm", "gemm_triton"),
    ("awq", "gemm", "torch_awq"),
)
"""Quantization method, format, and the name that the engine requests."""


def kernels_found(packages: Path | None) -> list[str]:
    """Return for each of NAMES the class of the configuration, the kernel, and whether the kernel supports training.

    `packages` is the folder in which gptqmodel is installed; None if it is in the main environment.
    """
    return forked(_kernels_found, packages)


def _kernels_found(packages: Path | None) -> list[str]:
    if packages is not None:
        sys.path.append(str(packages))
    from gptqmodel.quantization import FORMAT, METHOD
    from gptqmodel.utils.importer import get_kernel_for_backend

    from modules.engines.hf.model import python_arguments

    kernels = []
    for method, format, name in NAMES:
        config = {"quant_method": method, "bits": 4, "backend": name}
        quantization = python_arguments({"quantization_config": config})["quantization_config"]
        kernel = get_kernel_for_backend(
            quantization.get_loading_attributes()["backend"], METHOD(method), FORMAT(format)
        )
        kernels.append(f"{type(quantization).__name__} {kernel.__name__} {kernel.SUPPORTS_TRAINING}")
    return kernels
