"""The table of tensors in a GGUF file.

Source: the GGUF specification in ggml's docs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from modules.core.errors import UnsupportedModel
from modules.formats.gguf_types import REMOVED_TYPES, TENSOR_TYPES
from modules.system.bounded_reader import Flaw, Window, brief, damage

VERSIONS = (2, 3)
LONGEST_KEY = (1 << 16) - 1
"""The specification's limit; it does not limit values."""

_MOST_DIMENSIONS = 4
_NEWEST_TYPE = 1023  # forks of llama.cpp count up to about 400; what lies beyond is noise


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: `shape` has the dimension that varies fastest first; `size` is in bytes, 0 if the type is newer than
    this program; `offset` is from the start of the data."""

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    offset: int


def tensor_table(window: Window, count: int, version: int, alignment: int) -> Iterator[TensorEntry]:
    """The `count` entries from here on, of a file whose data is aligned to so many bytes. Flaw."""
    names = set()
    for _ in range(count):
        name = window.text(LONGEST_KEY)
        if name in names:
            raise damage(f"it has the tensor {brief(name)} twice", f"张量 {brief(name)} 出现了两次")
        names.add(name)
        shape = _shape(window, name)
        kind, offset = window.u32(), window.u64()
        type_name, block, block_size = _tensor_type(kind, version, name)
        if shape and shape[0] % block:
            raise _impossible(name, shape)
        if offset % alignment:
            raise damage(f"the tensor {brief(name)} is not aligned", f"张量 {brief(name)} 的起点未对齐")
        yield TensorEntry(name, type_name, tuple(shape), math.prod(shape) // block * block_size, offset)


def _shape(window: Window, name: str) -> list[int]:
    dimensions = window.u32()
    shape = [window.u64() for _ in range(min(dimensions, _MOST_DIMENSIONS + 1))]
    if dimensions > _MOST_DIMENSIONS or not 0 < math.prod(shape) < 1 << 63:
        raise _impossible(name, shape)
    return shape


def _impossible(name: str, shape: list[int]) -> Flaw:
    return damage(
        f"the tensor {brief(name)} has the impossible dimensions {shape}",
        f"张量 {brief(name)} 的维度 {shape} 不可能成立",
    )


def _tensor_type(kind: int, version: int, tensor: str) -> tuple[str, int, int]:
    """As in TENSOR_TYPES. A type newer than this program has a block of one element and no bytes: no size is known."""
    if kind in TENSOR_TYPES:
        return TENSOR_TYPES[kind]
    if kind in REMOVED_TYPES:
        old, new = REMOVED_TYPES[kind]
        raise Flaw(
            f"its tensors are of type {old}, which llama.cpp has removed. Get this model as {new}.",
            f"其张量类型 {old} 已被 llama.cpp 移除。请改用此模型的 {new} 版本。",
            UnsupportedModel,
        )
    if version == max(VERSIONS) and kind <= _NEWEST_TYPE:
        return f"type {kind}", 1, 0
    name = brief(tensor)
    raise damage(f"the tensor {name} has the unknown type {kind}", f"张量 {name} 的类型 {kind} 无法识别")
