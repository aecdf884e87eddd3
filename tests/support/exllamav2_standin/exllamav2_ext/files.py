"""Read tensors from files and reorder their columns: ext_stloader.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import nibbles, packed_nibbles


def stloader_read(filename: str, offset: int, size: int, target: Tensor) -> None:
    """Read `size` bytes at `offset` into `target`, which is contiguous."""
    contents = torch.from_file(filename, shared=False, size=offset + size, dtype=torch.uint8)
    target.view(-1).view(torch.uint8).copy_(contents[offset:])


def tensor_remap(tensor: Tensor, index: Tensor) -> None:
    """Reorder the columns by `index`, in place."""
    tensor.copy_(tensor[:, index.long()])


def tensor_remap_4bit(tensor: Tensor, index: Tensor) -> None:
    """Reorder the columns by `index`, in place, where a word holds eight columns."""
    tensor.copy_(packed_nibbles(nibbles(tensor)[:, index.long()]))
