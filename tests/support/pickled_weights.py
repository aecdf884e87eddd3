"""Weights as PyTorch pickles them, and a pickle that executes code."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

from tests.support.forked import forked


def pickle_weights(source: Path, target: Path) -> None:
    """Write the tensors of the safetensors file `source` to `target`, as torch.save does."""
    forked(_pickle_weights, source, target)


def _pickle_weights(source: Path, target: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(source), target)


def pickle_program(target: Path, harm: Path) -> None:
    """Write a file in the format of torch.save that creates the folder `harm` when it is unpickled."""
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model.norm.weight": Program(harm)}, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


class Program:
    """Creates the folder `harm` when it is unpickled."""

    def __init__(self, harm: Path) -> None:
        self._harm = harm

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._harm),)
