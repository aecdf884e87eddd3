"""What auto-gptq 0.7.1 and autoawq 0.2.9 need of Python before they can be imported from the overlay "legacy"."""

from __future__ import annotations

import importlib.util
import logging
import sys
import types
import warnings
from importlib.machinery import ModuleSpec

_NAMES = ("load_dataset", "Dataset", "DatasetDict", "IterableDatasetDict")


def prepare() -> None:
    """To be called before `import auto_gptq` or `import awq`."""
    _stand_in_for_datasets()
    # That it is no longer looked after, and whether kernels for CUDA were found: the loaders' notes say what matters.
    warnings.filterwarnings("ignore", module=r"(auto_gptq|awq)(\.|$)")
    warnings.filterwarnings("ignore", message=r"`torch\.cuda\.amp\.custom_(fwd|bwd)")
    for name in ("auto_gptq", "awq"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _stand_in_for_datasets() -> None:
    """Both import the package `datasets` (300 MB with what it needs) for quantising, which we do not ask of them."""
    if "datasets" in sys.modules or importlib.util.find_spec("datasets") is not None:
        return
    stand_in = types.ModuleType("datasets")
    stand_in.__spec__ = ModuleSpec("datasets", None)  # transformers looks for that
    for name in _NAMES:
        setattr(stand_in, name, type(name, (), {}))  # each stands in annotations as a type
    sys.modules["datasets"] = stand_in
