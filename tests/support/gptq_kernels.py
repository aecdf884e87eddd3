"""The kernels of gptqmodel that need no compiler, as it finds them by the names that we ask for."""

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
"""Method, format, and our name."""


def kernels_found(packages: Path | None) -> list[str]:
    """Return for each of NAMES the configuration, the kernel and whether it can be trained; `packages` is where
    gptqmodel is installed, unless it is in the main environment."""
    return forked(_kernels_found, packages)


def _kernels_found(packages: Path | None) -> list[str]:
    if packages is not None:
        sys.path.append(str(packages))
    from gptqmodel.quantization import FORMAT, METHOD
    from gptqmodel.utils.importer import get_kernel_for_backend

    from modules.engines.hf.model import python_arguments

    found = []
    for method, format, name in NAMES:
        asked = {"quant_method": method, "bits": 4, "backend": name}
        config = python_arguments({"quantization_config": asked})["quantization_config"]
        kernel = get_kernel_for_backend(config.get_loading_attributes()["backend"], METHOD(method), FORMAT(format))
        found.append(f"{type(config).__name__} {kernel.__name__} {kernel.SUPPORTS_TRAINING}")
    return found
