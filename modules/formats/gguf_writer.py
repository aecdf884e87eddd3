"""Writing a small GGUF file: facts, then the table of tensors, then their bytes, one after the other.

Source: the GGUF specification in ggml's docs.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

_VERSION, _ALIGNMENT = 3, 32
_F32_FACT, _TEXT, _U64 = 6, 8, 10
_TYPES = {"F32": (0, 4), "F16": (1, 2)}  # ggml's number, and the bytes of an element


@dataclass(frozen=True)
class Planned:
    """A tensor to be written; `type` is "F32" or "F16", `shape` has the dimension that varies fastest first."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * _TYPES[self.type][1]


def write(
    file: BinaryIO, facts: Mapping[str, str | int | float], tensors: Sequence[Planned], data: Iterable[bytes]
) -> None:
    """`data` are the tensors' bytes, in their order; ValueError if one has not its size. Whole numbers become u64."""
    head = b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(facts))
    head += b"".join(_text(key) + _fact(value) for key, value in facts.items())
    place = 0
    for each in tensors:
        head += _text(each.name) + struct.pack(f"<I{len(each.shape)}Q", len(each.shape), *each.shape)
        head += struct.pack("<IQ", _TYPES[each.type][0], place)
        place += each.size + _gap(each.size)
    file.write(head + bytes(_gap(len(head))))
    for each, content in zip(tensors, data, strict=True):
        if len(content) != each.size:
            raise ValueError(f"{each.name} has {len(content)} bytes instead of {each.size}")
        file.write(content)
        file.write(bytes(_gap(each.size)))


def _gap(size: int) -> int:
    return -size % _ALIGNMENT


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(raw)) + raw


def _fact(value: str | int | float) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _TEXT) + _text(value)
    if isinstance(value, int):
        return struct.pack("<IQ", _U64, value)
    return struct.pack("<If", _F32_FACT, value)
