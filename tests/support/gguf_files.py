"""Create small GGUF files, valid and invalid, field by field as the specification describes them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.formats.gguf_tensors import TENSOR_TYPES

U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64 = range(13)
_CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
ALIGNMENT = 32


@dataclass(frozen=True)
class As:
    """A value written as the GGUF type `kind`, whatever its Python type."""

    kind: int
    value: Any


class Raw(bytes):
    """Bytes that are written as they are, even if they are invalid."""


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: Sequence[int]
    kind: int = 0
    offset: int | None = None  # None: after the tensor before it


MODEL: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.file_type": 15,
    "llama.context_length": 4096,
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 4,
    "llama.rope.freq_base": 500000.0,
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "猫"],
    "tokenizer.ggml.scores": [0.0, -1.0, -2.0, -3.0],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.chat_template": "{{ messages }}",
}

PROJECTOR: dict[str, Any] = {
    "general.architecture": "clip",
    "general.type": "mmproj",
    "clip.vision.projection_dim": MODEL["llama.embedding_length"],
}
"""Complete metadata of a small model."""

TENSORS = (Tensor("token_embd.weight", (64, 4), 8), Tensor("output_norm.weight", (64,)))
"""320 elements: 272 bytes of Q8_0, and 256 of F32."""


def gguf(
    metadata: Mapping[str, Any] = MODEL,
    tensors: Sequence[Tensor] = TENSORS,
    version: int = 3,
    entries: int | None = None,
    count: int | None = None,
    contents: Sequence[bytes] | None = None,
) -> bytes:
    """Return a GGUF file. `entries` and `count` replace the numbers of metadata entries and tensors in its header.

    `contents` are the tensors' bytes, one after the other; zeros by default.
    """
    alignment = metadata.get("general.alignment", ALIGNMENT)
    alignment = alignment if isinstance(alignment, int) and alignment > 0 else ALIGNMENT
    claimed = [len(tensors) if count is None else count, len(metadata) if entries is None else entries]
    head = b"GGUF" + struct.pack("<IQQ", version, *claimed)
    head += b"".join(entry(key, value) for key, value in metadata.items())
    size, body = 0, b""
    for index, tensor in enumerate(tensors):
        offset = size if tensor.offset is None else tensor.offset
        head += text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += struct.pack("<IQ", tensor.kind, offset)
        content = bytes(_size(tensor)) if contents is None else contents[index]
        body += content + bytes(-len(content) % alignment)
        size = len(body)
    return head + bytes(-len(head) % alignment) + body


def entry(key: str | bytes, value: Any) -> bytes:
    kind = _kind(value)
    return text(key) + struct.pack("<I", kind) + _body(kind, value.value if isinstance(value, As) else value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def array(kind: int, items: Sequence[Any], count: int | None = None) -> Raw:
    """Return the bytes of an array whose header states `count` items."""
    head = struct.pack("<IQ", kind, len(items) if count is None else count)
    return Raw(head + b"".join(_body(kind, item) for item in items))


def _kind(value: Any) -> int:
    if isinstance(value, As):
        return value.kind
    kinds = {bool: BOOL, int: U32, float: F32, str: TEXT, bytes: TEXT, list: ARRAY}
    return kinds[type(value)]


def _body(kind: int, value: Any) -> bytes:
    if isinstance(value, Raw):
        return value
    if kind == TEXT:
        return text(value)
    if kind == ARRAY:
        return array(_kind(value[0]), value)
    return struct.pack("<" + _CODES[kind], value)


def _size(tensor: Tensor) -> int:
    elements = 1
    for length in tensor.shape:
        elements *= length
    _, block, size = TENSOR_TYPES.get(tensor.kind, ("", 1, 0))
    return min(elements // block * size, 1 << 16)  # an excessive shape must not create a huge file
