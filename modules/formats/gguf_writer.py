"""Write a small GGUF file: metadata, the tensor table, then the tensors' bytes.

Source: the GGUF specification in ggml's docs.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

_VERSION, _ALIGNMENT = 3, 32
_FLOAT32, _STRING, _UINT64 = 6, 8, 10
_TYPES = {"F32": (0, 4), "F16": (1, 2)}  # ggml's type number, bytes per element


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written; `type` is "F32" or "F16", `shape` has the fastest-varying dimension first."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the tensor's size in bytes."""
        return math.prod(self.shape) * _TYPES[self.type][1]


def write_gguf(
    file: BinaryIO,
    metadata: Mapping[str, str | int | float],
    tensors: Sequence[PlannedTensor],
    data: Iterable[bytes],
) -> None:
    """Write a GGUF file. Integers in `metadata` become uint64, other numbers float32.

    `data` yields the bytes of each tensor in order. Raises ValueError if their number differs from the tensor's size.
    """
    head = b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))
    head += b"".join(_pack_string(key) + _pack_value(value) for key, value in metadata.items())
    offset = 0
    for tensor in tensors:
        head += _pack_string(tensor.name)
        head += struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += struct.pack("<IQ", _TYPES[tensor.type][0], offset)
        offset += tensor.size + _padding(tensor.size)
    file.write(head + bytes(_padding(len(head))))
    for tensor, content in zip(tensors, data, strict=True):
        if len(content) != tensor.size:
            raise ValueError(f"{tensor.name} has {len(content)} bytes instead of {tensor.size}")
        file.write(content)
        file.write(bytes(_padding(tensor.size)))


def _padding(size: int) -> int:
    return -size % _ALIGNMENT


def _pack_string(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(raw)) + raw


def _pack_value(value: str | int | float) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _pack_string(value)
    if isinstance(value, int):
        return struct.pack("<IQ", _UINT64, value)
    return struct.pack("<If", _FLOAT32, value)
