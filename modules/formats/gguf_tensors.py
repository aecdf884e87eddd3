"""Tensor types, file types and the tensor table of a GGUF file.

Sources: the GGUF specification in ggml's docs; ggml_type_name, ggml_blck_size and ggml_type_size in ggml; LLAMA_FTYPE
in llama.cpp; GGMLQuantizationType in ik_llama.cpp's gguf-py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from modules.core.errors import UnsupportedModel
from modules.system.bounded_reader import BoundedReader
from modules.system.format_errors import FormatError, damaged_header, quoted

VERSIONS = (2, 3)
MAX_KEY_BYTES = (1 << 16) - 1
"""The specification's limit for keys and tensor names; it does not limit values."""

_MAX_DIMENSIONS = 4
_MAX_TYPE = 1023  # forks of llama.cpp count up to about 400; larger numbers are noise

# fmt: off
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {  # name, elements per block, bytes per block
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}
REMOVED_TYPES = {  # removed from llama.cpp; the second is the type to use instead
    4: ("Q4_2", "Q4_0"), 5: ("Q4_3", "Q4_1"),
    31: ("Q4_0_4_4", "Q4_0"), 32: ("Q4_0_4_8", "Q4_0"), 33: ("Q4_0_8_8", "Q4_0"),
    36: ("IQ4_NL_4_4", "IQ4_NL"), 37: ("IQ4_NL_4_8", "IQ4_NL"), 38: ("IQ4_NL_8_8", "IQ4_NL"),
}
_IK_LLAMA_TYPES = {
    97: "Q8_0_X4", 98: "Q8_1_X4", 99: "Q8_2_X4", 133: "Q6_0", 134: "IQ1_BN", 135: "IQ2_BN", 136: "Q8_K64", 137: "IQ2_K",
    138: "IQ3_K", 139: "IQ4_K", 140: "IQ5_K", 141: "IQ6_K", 144: "IQ4_KS", 145: "IQ2_KS", 146: "IQ4_KSS", 147: "Q8_K16",
    148: "Q8_K32", 149: "Q8_KR8", 150: "Q8_K128", 151: "Q8_KV", 152: "IQ5_KS", 153: "IQ2_KT", 154: "IQ3_KT",
    155: "IQ4_KT", 156: "IQ3_KS", 157: "IQ2_KL", 158: "IQ1_KT", 202: "Q4_0_R8", 206: "Q5_0_R4", 208: "Q8_0_R8",
    210: "Q2_K_R4", 211: "Q3_K_R4", 212: "Q4_K_R4", 213: "Q5_K_R4", 214: "Q6_K_R4", 216: "IQ2_XXS_R4", 217: "IQ2_XS_R4",
    218: "IQ3_XXS_R4", 219: "IQ1_S_R4", 220: "IQ4_NL_R4", 221: "IQ3_S_R4", 222: "IQ2_S_R4", 223: "IQ4_XS_R8",
    229: "IQ1_M_R4", 230: "BF16_R16", 233: "Q6_0_R4", 335: "IQ2_BN_R4", 337: "IQ2_K_R4", 338: "IQ3_K_R4",
    339: "IQ4_K_R4", 340: "IQ5_K_R4", 344: "IQ4_KS_R4", 352: "IQ5_KS_R4", 398: "Q8_KV_R8", 399: "Q8_K_R8",
}
FILE_TYPES: dict[int, str] = {  # general.file_type: llama.cpp's LLAMA_FTYPE
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0", 41: "Q2_0",
}
# fmt: on


@dataclass(frozen=True)
class TensorEntry:
    """One entry of the tensor table.

    `shape` has the fastest-varying dimension first; `size` is in bytes; `offset` is relative to the start of the tensor
    data.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    offset: int


def read_tensor_table(reader: BoundedReader, count: int, version: int, alignment: int) -> Iterator[TensorEntry]:
    """Yield the `count` entries of the tensor table, whose tensors are aligned to `alignment` bytes.

    Raises FormatError for an invalid entry.
    """
    names = set()
    for _ in range(count):
        name = reader.read_string(MAX_KEY_BYTES)
        if name in names:
            raise damaged_header(f"the tensor {quoted(name)} occurs twice", f"张量{quoted(name, 'zh')}出现了两次")
        names.add(name)
        shape = _read_shape(reader, name)
        type_number, offset = reader.read_u32(), reader.read_u64()
        type_name, block, block_bytes = _tensor_type(type_number, version, name)
        if shape and shape[0] % block:
            raise _invalid_shape(name, shape)
        if offset % alignment:
            raise damaged_header(f"the tensor {quoted(name)} is not aligned", f"张量{quoted(name, 'zh')}的起点未对齐")
        yield TensorEntry(name, type_name, tuple(shape), math.prod(shape) // block * block_bytes, offset)


def _read_shape(reader: BoundedReader, name: str) -> list[int]:
    dimensions = reader.read_u32()
    shape = [reader.read_u64() for _ in range(min(dimensions, _MAX_DIMENSIONS + 1))]
    if dimensions > _MAX_DIMENSIONS or not 0 < math.prod(shape) < 1 << 63:
        raise _invalid_shape(name, shape)
    return shape


def _invalid_shape(name: str, shape: list[int]) -> FormatError:
    return damaged_header(
        f"the tensor {quoted(name)} has invalid dimensions {shape}",
        f"张量{quoted(name, 'zh')}的维度 {shape} 无效",
    )


def _tensor_type(number: int, version: int, tensor: str) -> tuple[str, int, int]:
    """Return the row of TENSOR_TYPES. Raises FormatError for types that the pinned llama.cpp does not know."""
    if number in TENSOR_TYPES:
        return TENSOR_TYPES[number]
    if number in REMOVED_TYPES:
        old, new = REMOVED_TYPES[number]
        raise FormatError(
            f"its tensors are of type {old}, which llama.cpp has removed. Get this model as {new}.",
            f"其张量类型 {old} 已被 llama.cpp 移除。请改用此模型的 {new} 版本。",
            UnsupportedModel,
        )
    if version == max(VERSIONS) and number <= _MAX_TYPE:
        raise _foreign_type(number)
    raise damaged_header(
        f"the tensor {quoted(tensor)} has the unknown type {number}",
        f"张量{quoted(tensor, 'zh')}的类型 {number} 无法识别",
    )


def _foreign_type(number: int) -> FormatError:
    if name := _IK_LLAMA_TYPES.get(number):
        return FormatError(
            f"its tensors are of type {name} ({number}), which only ik_llama.cpp knows. "
            "Get this model with types of llama.cpp, such as Q4_K_M.",
            f"其张量类型 {name}（{number}）只有 ik_llama.cpp 支持。请改用此模型的 llama.cpp 版本，例如 Q4_K_M。",
            UnsupportedModel,
        )
    return FormatError(
        f"its tensors are of type {number}, which this program's llama.cpp does not know: it is newer, or of another "
        "program. Update this program, or get this model with another type, such as Q4_K_M.",
        f"本程序的 llama.cpp 不认识其张量类型 {number}：该类型较新，或属于其他程序。请更新本程序，"
        "或改用此模型的其他版本，例如 Q4_K_M。",
        UnsupportedModel,
    )
