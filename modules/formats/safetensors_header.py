"""Headers of weight files: the tensor table of .safetensors, the kind of file of PyTorch's .bin and .pt.

Source: the description of the safetensors format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from modules.formats.json_file import MAX_JSON_BYTES, Json, read_json_object
from modules.formats.model_shape import NO_TENSORS, TensorSizes, measure_tensors
from modules.formats.quantization import PLAIN, Packing, detect_packing
from modules.system.bounded_reader import BoundedReader, parse_file
from modules.system.format_errors import damaged_header, truncated_file, wrong_format


@dataclass(frozen=True)
class WeightHeader:
    """Sizes of the tensors in one weight file, and how they are packed."""

    sizes: TensorSizes = NO_TENSORS
    packing: Packing = PLAIN

    @staticmethod
    def from_json(facts: Mapping[str, Any]) -> WeightHeader:
        """Return the header that `dataclasses.asdict` has turned into `facts`."""
        return WeightHeader(TensorSizes(**facts["sizes"]), Packing(**facts["packing"]))


def read_weight_header(path: Path) -> WeightHeader:
    """Read the header of a .safetensors file. Of PyTorch's files only the magic is checked: a pickle is a program.

    Raises ModelProblem for invalid content, OSError if unreadable.
    """
    return parse_file(path, _parse_safetensors if path.suffix.lower() == ".safetensors" else _check_pytorch)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a .safetensors file: `dtype` such as "BF16", `size` bytes from `offset` in the file on."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def read_safetensors_table(path: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a complete .safetensors file by name. Raises as `read_weight_header` does."""
    return parse_file(path, _parse_stored_tensors)


def read_tensor_names(path: Path) -> frozenset[str]:
    """Return the names of all tensors of a .safetensors file. Raises as `read_weight_header` does."""
    return frozenset(read_safetensors_table(path))


def _check_pytorch(reader: BoundedReader) -> WeightHeader:
    head = reader.peek()
    if not head.startswith((b"PK\x03\x04", b"\x80\x02")):  # a zip archive, or the bare pickle of before 2020
        raise wrong_format("PyTorch", head, reader.size)
    return WeightHeader()


def _parse_stored_tensors(reader: BoundedReader) -> dict[str, StoredTensor]:
    tensors = {}
    for name, entry in _read_table(reader).items():
        begin, end = entry["data_offsets"]
        if begin > end:
            raise damaged_header("a tensor ends before it begins", "某个张量的终点在起点之前")
        offset = reader.position + begin
        tensors[name] = StoredTensor(str(entry.get("dtype")), tuple(entry["shape"]), offset, end - begin)
    return tensors


def _parse_safetensors(reader: BoundedReader) -> WeightHeader:
    table = _read_table(reader)
    packing = detect_packing(table, lambda name: tuple(table[name]["shape"]) if name in table else ())
    return WeightHeader(measure_tensors(table), packing)


def _read_table(reader: BoundedReader) -> Json:
    """Read the tensor table and check every entry. The reader is then at the start of the tensor data."""
    head = reader.peek()
    if head[8:9] != b"{" or int.from_bytes(head[:8], "little") > MAX_JSON_BYTES:
        raise wrong_format("safetensors", head, reader.size)
    table = read_json_object(reader, reader.read_u64())
    table.pop("__metadata__", None)
    expected = reader.position + max((_checked_end(entry) for entry in table.values()), default=0)
    if expected > reader.size:
        raise truncated_file(expected, reader.size)
    return table


def _checked_end(entry: object) -> int:
    """Check an entry's shape and offsets, and return the end of its bytes within the tensor data."""
    shape = entry.get("shape") if isinstance(entry, dict) else None
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _are_naturals(shape) or not _are_naturals(offsets) or len(offsets) != 2:
        raise damaged_header("a tensor lacks a valid shape or offset", "某个张量缺少有效的形状或偏移量")
    return offsets[1]


def _are_naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in value)
