"""Header of a GGUF file: what it says about its model, and whether the file is complete.

Source: the GGUF specification in ggml's docs.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.core.errors import UnsupportedModel
from modules.formats.gguf_metadata import (
    BASE_MODEL,
    CHAT_TEMPLATE,
    LORA_ALPHA,
    MIN_ENTRY_BYTES,
    ROPE_SCALING_TYPE,
    Metadata,
    get_flag,
    get_integer,
    get_long_strings,
    get_named_templates,
    get_number,
    get_numbers,
    get_string,
    read_metadata,
    read_special_tokens,
)
from modules.formats.gguf_tensors import FILE_TYPES, VERSIONS, TensorEntry, read_tensor_table
from modules.system.bounded_reader import BoundedReader, SeekableFile, parse_file, parse_open_file
from modules.system.format_errors import FormatError, damaged_header, truncated_file, wrong_format

_MAGIC = b"GGUF"
_MAX_VERSION = 99  # larger numbers are noise
_MIN_TENSOR_BYTES = 24  # of an entry in the tensor table
_GUESSED_FILE_TYPE = 1024  # a flag that llama.cpp adds to a file type it derived itself


@dataclass(frozen=True)
class GgufHeader:
    """Facts from the header of a GGUF file. A missing number is 0, a missing string "".

    `kind` is "model", "adapter", "mmproj" or "imatrix"; it is empty in most models, and in files older than this key.
    Where a model gives one head count per layer, `head_count` and `head_count_kv` are the largest. `rope_scale` is
    the factor of linear scaling (1.0: none). `add_bos` is None if the file leaves it to the backend. `parameters`
    counts the elements of the tensors in this file (of a split model: in this part); `size` is the file's, in bytes.
    `numbers` has every integer, flag and list of them, without the prefix of the architecture; of other lists, the
    length. `sizes` has the bytes of tensors by layer: "blk.0" and so on, "token_embd", "output", "output_norm" …
    `long_strings` has, of lists of strings, the bytes of the strings of more than 15 bytes.
    `named_templates` are chat templates beside `chat_template`, `special_tokens` texts by transformers' names.
    `projectors` are the headers of vision parts beside the file, by file name; only the catalog knows them.
    `drafts` are those of draft models, by the names that load options have for them; only the planner knows them.
    `adapter` is the type of an adapter, such as "lora", `base` the model it was trained on, and `alpha` that of a LoRA
    (0: it is not scaled).
    """

    version: int
    architecture: str
    name: str
    context_length: int
    block_count: int
    embedding_length: int
    head_count: int
    head_count_kv: int
    key_length: int
    value_length: int
    rope_freq_base: float
    rope_scale: float
    quantization: str
    chat_template: str
    add_bos: bool | None
    tensor_count: int
    parameters: int
    size: int
    split_count: int
    split_no: int
    numbers: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict, hash=False)
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)
    kind: str = ""
    adapter: str = ""
    base: str = ""
    alpha: float = 0.0
    long_strings: Mapping[str, int] = field(default_factory=dict, hash=False)
    named_templates: Mapping[str, str] = field(default_factory=dict, hash=False)
    special_tokens: Mapping[str, str] = field(default_factory=dict, hash=False)
    projectors: Mapping[str, GgufHeader] = field(default_factory=dict, hash=False)
    drafts: Mapping[str, GgufHeader] = field(default_factory=dict, hash=False)

    @staticmethod
    def from_json(facts: Mapping[str, Any]) -> GgufHeader:
        """Return the header that `dataclasses.asdict` and JSON have turned into `facts`."""
        numbers = {key: tuple(value) if isinstance(value, list) else value for key, value in facts["numbers"].items()}
        return GgufHeader(**{**facts, "numbers": numbers})


def read_header(path: Path) -> GgufHeader:
    """Read the header of the GGUF file at `path`. Raises ModelProblem for invalid content, OSError if unreadable."""
    return parse_file(path, _parse_header)


def read_tensors(path: Path) -> tuple[GgufHeader, tuple[TensorEntry, ...]]:
    """Read the header and the tensor table. Raises as `read_header` does."""
    return parse_file(path, _parse)


def read_open_header(file: SeekableFile, size: int, name: str) -> GgufHeader:
    """Read the header of an open file of `size` bytes, which need not be on disk. Errors of reading it pass through."""
    return parse_open_file(file, size, name, _parse_header)


def merge_parts(headers: Sequence[GgufHeader], size: int) -> GgufHeader:
    """Return the header of a split model: the first part's, with the tensors of all parts and their total `size`."""
    sizes = sum((Counter(header.sizes) for header in headers), Counter())  # a layer may be spread over two parts
    return dataclasses.replace(headers[0], size=size, sizes=dict(sizes))


def _parse_header(reader: BoundedReader) -> GgufHeader:
    return _parse(reader)[0]


def _parse(reader: BoundedReader) -> tuple[GgufHeader, tuple[TensorEntry, ...]]:
    version, tensor_count, entries = _read_preamble(reader)
    metadata = read_metadata(reader, entries)
    table = tuple(read_tensor_table(reader, tensor_count, version, _alignment(metadata)))
    return _header(reader, version, metadata, table), table


def _header(reader: BoundedReader, version: int, metadata: Metadata, table: Sequence[TensorEntry]) -> GgufHeader:
    totals = _total_tensors(reader, table, _alignment(metadata))
    arch = get_string(metadata, "general.architecture")
    file_type = get_integer(metadata, "general.file_type", -1) & ~_GUESSED_FILE_TYPE
    return GgufHeader(
        version=version,
        architecture=arch,
        name=get_string(metadata, "general.name"),
        context_length=get_integer(metadata, f"{arch}.context_length"),
        block_count=get_integer(metadata, f"{arch}.block_count"),
        embedding_length=get_integer(metadata, f"{arch}.embedding_length"),
        head_count=get_integer(metadata, f"{arch}.attention.head_count"),
        head_count_kv=get_integer(metadata, f"{arch}.attention.head_count_kv"),
        key_length=get_integer(metadata, f"{arch}.attention.key_length"),
        value_length=get_integer(metadata, f"{arch}.attention.value_length"),
        rope_freq_base=get_number(metadata, f"{arch}.rope.freq_base"),
        rope_scale=_linear_scale(metadata, arch),
        quantization=FILE_TYPES.get(file_type) or totals.largest_type(),
        chat_template=get_string(metadata, CHAT_TEMPLATE),
        add_bos=get_flag(metadata, "tokenizer.ggml.add_bos_token"),
        tensor_count=len(table),
        parameters=totals.parameters,
        size=reader.size,
        split_count=get_integer(metadata, "split.count"),
        split_no=get_integer(metadata, "split.no"),
        numbers=get_numbers(metadata, f"{arch}."),
        sizes=dict(totals.bytes_by_layer),
        kind=get_string(metadata, "general.type"),
        adapter=get_string(metadata, "adapter.type"),
        base=get_string(metadata, BASE_MODEL),
        alpha=get_number(metadata, LORA_ALPHA),
        long_strings=get_long_strings(metadata),
        named_templates=get_named_templates(metadata),
        special_tokens=read_special_tokens(reader, metadata),
    )


def _read_preamble(reader: BoundedReader) -> tuple[int, int, int]:
    """Return the version, the number of tensors and the number of metadata entries."""
    head = reader.peek()
    if not head or not _MAGIC.startswith(head[:4]):
        raise wrong_format("GGUF", head, reader.size)
    reader.skip(len(_MAGIC))
    version = reader.read_u32()
    if version not in VERSIONS:
        raise _unknown_version(version)
    tensors, entries = reader.read_u64(), reader.read_u64()
    if tensors * _MIN_TENSOR_BYTES + entries * MIN_ENTRY_BYTES > reader.size:
        raise damaged_header(
            f"it claims {entries:,} entries and {tensors:,} tensors, more than {reader.size:,} bytes can hold",
            f"它声称有 {entries:,} 个条目和 {tensors:,} 个张量，而文件只有 {reader.size:,} 字节，根本容纳不下",
        )
    return version, tensors, entries


def _unknown_version(version: int) -> FormatError:
    if version & 0xFFFF == 0 and version:
        return FormatError(
            "this GGUF file is big-endian, made for other processors. Get the little-endian version.",
            "这是大端序的 GGUF 文件，适用于其他类型的处理器。请改用小端序版本。",
            UnsupportedModel,
        )
    if version > _MAX_VERSION:
        return damaged_header(f"its version is {version}", f"版本号为 {version}")
    if version < min(VERSIONS):
        return FormatError(
            f"GGUF version {version} is too old: 2 or 3 is needed. Convert the model again, or get a newer file.",
            f"GGUF 版本 {version} 过旧，需要版本 2 或 3。请重新转换模型，或下载较新的文件。",
            UnsupportedModel,
        )
    return FormatError(
        f"GGUF version {version} is newer than this program, which reads up to {max(VERSIONS)}. Update this program.",
        f"GGUF 版本 {version} 过新，本程序最高支持版本 {max(VERSIONS)}。请更新本程序。",
        UnsupportedModel,
    )


def _linear_scale(metadata: Metadata, arch: str) -> float:
    """Return the factor of linear scaling, or 1.0.

    Files older than the scaling types give the factor under `rope.scale_linear`, or without a type.
    """
    factor = get_number(metadata, f"{arch}.rope.scaling.factor") or get_number(metadata, f"{arch}.rope.scale_linear")
    linear = get_string(metadata, arch + ROPE_SCALING_TYPE) in ("", "linear")
    return factor if linear and factor else 1.0


def _alignment(metadata: Metadata) -> int:
    alignment = get_integer(metadata, "general.alignment") if "general.alignment" in metadata else 32
    if alignment < 1 or alignment & (alignment - 1):
        raise damaged_header(f"its alignment is {alignment}, not a power of two", f"对齐值 {alignment} 不是 2 的幂")
    return alignment


@dataclass
class _TensorTotals:
    """Sums over the tensor table. `end` is the end of the last tensor, from the start of the tensor data."""

    parameters: int = 0
    end: int = 0
    bytes_by_type: Counter[str] = field(default_factory=Counter)
    bytes_by_layer: Counter[str] = field(default_factory=Counter)

    def largest_type(self) -> str:
        return max(self.bytes_by_type, key=lambda name: self.bytes_by_type[name], default="")


def _total_tensors(reader: BoundedReader, table: Iterable[TensorEntry], alignment: int) -> _TensorTotals:
    """Sum up the tensor table, which the reader has just passed. Raises FormatError if the file is truncated."""
    totals = _TensorTotals()
    for tensor in table:
        totals.parameters += math.prod(tensor.shape)
        layer = ".".join(tensor.name.split(".")[: 2 if tensor.name.startswith("blk.") else 1])
        totals.bytes_by_layer[layer] += tensor.size
        totals.bytes_by_type[tensor.type] += tensor.size
        totals.end = max(totals.end, tensor.offset + tensor.size)
    expected = -(-reader.position // alignment) * alignment + totals.end
    if totals.end and expected > reader.size:
        raise truncated_file(expected, reader.size)
    return totals
