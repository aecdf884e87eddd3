"""Prepare the interpreter for importing auto-gptq 0.7.1 and autoawq 0.2.9 from the overlay "legacy"."""

from __future__ import annotations

import importlib.util
import logging
import sys
import types
import warnings
from importlib.machinery import ModuleSpec

_IMPORTED_NAMES = ("load_dataset", "Dataset", "DatasetDict", "IterableDatasetDict")


def prepare() -> None:
    """Stub what the packages import needlessly and silence their warnings. Call this before importing them."""
    _stub_datasets()
    # They warn that they are unmaintained and which CUDA kernels are missing; the loaders' notes say what matters.
    warnings.filterwarnings("ignore", module=r"(auto_gptq|awq)(\.|$)")
    warnings.filterwarnings("ignore", message=r"`torch\.cuda\.amp\.custom_(fwd|bwd)")
    for name in ("auto_gptq", "awq"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _stub_datasets() -> None:
    """Register an empty `datasets` module.

    Both packages import the real one (300 MB with its requirements) for quantizing, which we never do.
    """
    if "datasets" in sys.modules or importlib.util.find_spec("datasets") is not None:
        return
    stub = types.ModuleType("datasets")
    stub.__spec__ = ModuleSpec("datasets", None)  # Transformers looks for it
    for name in _IMPORTED_NAMES:
        setattr(stub, name, type(name, (), {}))  # they appear as types in annotations
    sys.modules["datasets"] = stub
