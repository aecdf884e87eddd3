"""The header of a GGUF file: what the model says of itself, and whether the file is whole.

Every count and length is held against the size of the file before anything is read or allocated for it.

Source: the GGUF specification in ggml's docs.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.core.errors import UnsupportedModel
from modules.formats.gguf_tensors import LONGEST_KEY, VERSIONS, TensorEntry, tensor_table
from modules.formats.gguf_types import FILE_TYPES
from modules.system.bounded_reader import (
    Flaw,
    Readable,
    Window,
    brief,
    damage,
    examine,
    examine_open,
    foreign,
    truncated,
)

_MAGIC = b"GGUF"
_NEWEST_VERSION = 99  # what lies beyond is noise
_LONGEST_TEXT = 1 << 24
_MOST_ITEMS = 1 << 24  # of one array of strings or arrays, which must be walked; no vocabulary comes near
_PER_LAYER = 1024  # arrays of numbers or flags up to this length are kept: some models have a head count for each layer
_DEEPEST = 4

_F32, _TEXT, _ARRAY = 6, 8, 9
_KINDS = zip((*range(_TEXT), 10, 11, 12), "BbHhIif?Qqd", strict=True)
_SCALARS = {kind: struct.Struct("<" + code) for kind, code in _KINDS}
_SMALLEST_ENTRY, _SMALLEST_TENSOR, _SMALLEST_ITEM = 13, 24, 8  # bytes: of a key, of a tensor, of a text in an array

_BASE = "general.base_model.0.name"
_ALPHA = "adapter.lora.alpha"
_TOKENS = "tokenizer.ggml.tokens"
_TEXTS = {"general.architecture", "general.name", "general.type", "adapter.type", "tokenizer.chat_template", _BASE}
_SCALING_TYPE = ".rope.scaling.type"

_GUESSED = 1024  # a flag that llama.cpp adds to a file type it worked out itself


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of its model. A number it does not give is 0, a text "".

    `kind` is "model", "adapter", "mmproj" or "imatrix"; files that are older than this key, and most models, say "".
    Where a model gives one head count for each layer, the largest stands here. `rope_scale` is the factor of linear
    scaling (1.0: none). `add_bos` is None if the file leaves it to the backend. `parameters` counts the elements of
    the tensors in this file (of a split model: this part's); `size` is the file's, in bytes. `numbers` has every whole
    number, flag and list of them, the architecture's own without its name; of any other list, its length. `sizes` has
    the bytes of the tensors by what they belong to: "blk.0" and so on, "token_embd", "output", "output_norm" …
    `adapter` is what kind of adapter it is, such as "lora", `base` the model it was made for, and `alpha` that of a
    LoRA (0: it is not scaled).
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
    bos_token: str
    eos_token: str
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

    @staticmethod
    def from_json(facts: Mapping[str, Any]) -> GgufHeader:
        """The inverse of `dataclasses.asdict`, from what JSON makes of that."""
        numbers = {key: tuple(each) if isinstance(each, list) else each for key, each in facts["numbers"].items()}
        return GgufHeader(**{**facts, "numbers": numbers})


def read_header(path: Path) -> GgufHeader:
    """The header of the GGUF file at `path`. ModelProblem whatever else its bytes are; OSError if it cannot be read."""
    return examine(path, _read)


def read_tensors(path: Path) -> tuple[GgufHeader, tuple[TensorEntry, ...]]:
    """The same with the table of the tensors in this file, in its order."""
    return examine(path, _read_all)


def read_header_of(file: Readable, size: int, name: str) -> GgufHeader:
    """The same of an open file of `size` bytes that need not be on disk; what reading it raises goes through."""
    return examine_open(file, size, name, _read)


def joined(headers: Sequence[GgufHeader], size: int) -> GgufHeader:
    """That of a split model, from those of its parts in order: the first one's words, with the tensors of all."""
    sizes = sum((Counter(each.sizes) for each in headers), Counter())  # a layer may be spread over two
    return dataclasses.replace(headers[0], size=size, sizes=dict(sizes))


@dataclass(frozen=True)
class _Array:
    """An array that was passed over: where its items begin."""

    kind: int
    place: int
    count: int


_Fact = bool | int | float | str | tuple[int, ...] | _Array | None
"""A value of the metadata; None for a text nobody asks for."""
_Facts = dict[str, _Fact]


def _read(window: Window) -> GgufHeader:
    return _read_all(window)[0]


def _read_all(window: Window) -> tuple[GgufHeader, tuple[TensorEntry, ...]]:
    version, tensor_count, entries = _preamble(window)
    facts = _metadata(window, entries)
    table = tuple(tensor_table(window, tensor_count, version, _alignment(facts)))
    return _header(window, version, facts, table), table


def _header(window: Window, version: int, facts: _Facts, table: Sequence[TensorEntry]) -> GgufHeader:
    tally = _tally(window, table, _alignment(facts))
    arch = _text(facts, "general.architecture")
    return GgufHeader(
        version=version,
        architecture=arch,
        name=_text(facts, "general.name"),
        context_length=_whole(facts, f"{arch}.context_length"),
        block_count=_whole(facts, f"{arch}.block_count"),
        embedding_length=_whole(facts, f"{arch}.embedding_length"),
        head_count=_whole(facts, f"{arch}.attention.head_count"),
        head_count_kv=_whole(facts, f"{arch}.attention.head_count_kv"),
        key_length=_whole(facts, f"{arch}.attention.key_length"),
        value_length=_whole(facts, f"{arch}.attention.value_length"),
        rope_freq_base=_number(facts, f"{arch}.rope.freq_base"),
        rope_scale=_linear_scale(facts, arch),
        quantization=FILE_TYPES.get(_whole(facts, "general.file_type", -1) & ~_GUESSED) or tally.commonest(),
        chat_template=_text(facts, "tokenizer.chat_template"),
        bos_token=_token(window, facts, "bos"),
        eos_token=_token(window, facts, "eos"),
        add_bos=_flag(facts, "tokenizer.ggml.add_bos_token"),
        tensor_count=len(table),
        parameters=tally.parameters,
        size=window.size,
        split_count=_whole(facts, "split.count"),
        split_no=_whole(facts, "split.no"),
        numbers=_numbers(facts, f"{arch}."),
        sizes=dict(tally.bytes_by_owner),
        kind=_text(facts, "general.type"),
        adapter=_text(facts, "adapter.type"),
        base=_text(facts, _BASE),
        alpha=_number(facts, _ALPHA),
    )


def _preamble(window: Window) -> tuple[int, int, int]:
    """Version, number of tensors, number of metadata entries."""
    head = window.peek()
    if not head or not _MAGIC.startswith(head[:4]):
        raise foreign("GGUF", head, window.size)
    window.skip(len(_MAGIC))
    version = window.u32()
    if version not in VERSIONS:
        raise _other_version(version)
    tensors, entries = window.u64(), window.u64()
    if tensors * _SMALLEST_TENSOR + entries * _SMALLEST_ENTRY > window.size:
        raise damage(
            f"it announces {entries:,} entries and {tensors:,} tensors, more than {window.size:,} bytes can hold",
            f"它声称有 {entries:,} 个条目和 {tensors:,} 个张量，而文件只有 {window.size:,} 字节，根本容纳不下",
        )
    return version, tensors, entries


def _other_version(version: int) -> Flaw:
    if version & 0xFFFF == 0 and version:
        return Flaw(
            "this GGUF file is big-endian, made for another kind of processor. Get the little-endian one.",
            "这是大端序的 GGUF 文件，适用于另一类处理器。请改用小端序版本。",
            UnsupportedModel,
        )
    if version > _NEWEST_VERSION:
        return damage(f"its version is {version}", f"版本号为 {version}")
    if version < min(VERSIONS):
        return Flaw(
            f"GGUF version {version} is too old: 2 or 3 is needed. Convert the model again, or get a newer file.",
            f"GGUF 版本 {version} 过旧，需要版本 2 或 3。请重新转换模型，或下载较新的文件。",
            UnsupportedModel,
        )
    return Flaw(
        f"GGUF version {version} is not known here: up to {max(VERSIONS)} can be read. Update this program.",
        f"无法识别 GGUF 版本 {version}，目前最高支持版本 {max(VERSIONS)}。请更新本程序。",
        UnsupportedModel,
    )


def _metadata(window: Window, entries: int) -> _Facts:
    facts: _Facts = {}
    for _ in range(entries):
        key = window.text(LONGEST_KEY)
        if key in facts:
            raise damage(f"it has the key {brief(key)} twice", f"键 {brief(key)} 出现了两次")
        facts[key] = _value(window, key, window.u32())
    return facts


def _value(window: Window, key: str, kind: int) -> _Fact:
    if kind in _SCALARS:
        if key == _ALPHA and kind != _F32:  # llama.cpp would end the process
            raise damage(f"{brief(key)} is not of the type float32", f"{brief(key)} 的类型不是 float32")
        return window.number(_SCALARS[kind])
    if kind == _ARRAY:
        return _array(window, key)
    if kind != _TEXT:
        raise damage(f"{brief(key)} has the unknown type {kind}", f"{brief(key)} 的类型 {kind} 无法识别")
    if key in _TEXTS or key.endswith(_SCALING_TYPE):
        return window.text(_LONGEST_TEXT)
    window.skip_strings(1)
    return None


def _array(window: Window, key: str, depth: int = 1) -> _Fact:
    kind, count = window.u32(), window.u64()
    array = _Array(kind, window.place, count)
    shape = _SCALARS.get(kind)
    if count * (shape.size if shape else _SMALLEST_ITEM) > window.size or (not shape and count > _MOST_ITEMS):
        raise damage(f"{brief(key)} announces {count:,} items", f"{brief(key)} 声称有 {count:,} 项")
    if shape:
        if count <= _PER_LAYER and shape.format not in ("<f", "<d"):
            return tuple(int(window.number(shape)) for _ in range(count))
        window.skip(count * shape.size)
    elif kind == _TEXT:
        window.skip_strings(count)
    else:
        _skip_arrays(window, key, array, depth)
    return array


def _skip_arrays(window: Window, key: str, array: _Array, depth: int) -> None:
    if array.kind != _ARRAY:
        raise damage(
            f"{brief(key)} has items of the unknown type {array.kind}",
            f"{brief(key)} 中各项的类型 {array.kind} 无法识别",
        )
    if depth >= _DEEPEST:
        raise damage(f"{brief(key)} nests arrays too deep", f"{brief(key)} 的数组嵌套过深")
    for _ in range(array.count):
        _array(window, key, depth + 1)


def _wrong(key: str, value: _Fact, en: str, zh: str) -> Flaw:
    if isinstance(value, (bool, int, float)):
        found = (str(value), f" {value}")
    else:
        found = ("a list", "列表") if isinstance(value, (tuple, _Array)) else ("a text", "文本")
    return damage(f"{brief(key)} should be {en}, but is {found[0]}", f"{brief(key)} 应为{zh}，却是{found[1]}")


def _text(facts: _Facts, key: str) -> str:
    value = facts.get(key, "")
    if not isinstance(value, str):
        raise _wrong(key, value, "a text", "文本")
    return value


def _flag(facts: _Facts, key: str) -> bool | None:
    if key not in facts:
        return None
    value = facts[key]
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false", " true 或 false")
    return value


def _whole(facts: _Facts, key: str, default: int = 0) -> int:
    """The number at `key`, which may be as low as `default`; of one number for each layer, the largest."""
    value = facts.get(key, default)
    number = max(value, default=0) if isinstance(value, tuple) else value
    if isinstance(number, bool) or not isinstance(number, int) or not default <= number < 1 << 32:
        raise _wrong(key, value, "a whole number", "整数")
    return number


def _numbers(facts: _Facts, own: str) -> dict[str, int | tuple[int, ...]]:
    known = {key: fact.count if isinstance(fact, _Array) else fact for key, fact in facts.items()}
    return {key.removeprefix(own): fact for key, fact in known.items() if isinstance(fact, (int, tuple))}


def _number(facts: _Facts, key: str) -> float:
    value = facts.get(key, 0.0)
    # `number >= 0` is also false for NaN; the bound keeps infinity out.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e30:
        raise _wrong(key, value, "a number", "数字")
    return float(value)


def _linear_scale(facts: _Facts, arch: str) -> float:
    """Files older than the scaling types give the factor under `rope.scale_linear`, or without a type."""
    factor = _number(facts, f"{arch}.rope.scaling.factor") or _number(facts, f"{arch}.rope.scale_linear")
    linear = _text(facts, arch + _SCALING_TYPE) in ("", "linear")
    return factor if linear and factor else 1.0


def _alignment(facts: _Facts) -> int:
    alignment = _whole(facts, "general.alignment") if "general.alignment" in facts else 32
    if alignment < 1 or alignment & (alignment - 1):
        raise damage(f"its alignment is {alignment}, not a power of two", f"对齐值 {alignment} 不是 2 的幂")
    return alignment


def _token(window: Window, facts: _Facts, which: str) -> str:
    """The text of the "bos" or "eos" token; "" if the file names none, or one its vocabulary lacks, as some do."""
    tokens = facts.get(_TOKENS)
    index = _whole(facts, f"tokenizer.ggml.{which}_token_id", -1)
    if not isinstance(tokens, _Array) or tokens.kind != _TEXT or not 0 <= index < tokens.count:
        return ""
    window.seek(tokens.place)
    window.skip_strings(index)
    return window.text(_LONGEST_TEXT)


@dataclass
class _Tally:
    """What the tensors come to. `end` is where the last of them ends, from the start of the data."""

    parameters: int = 0
    end: int = 0
    bytes_by_type: Counter[str] = field(default_factory=Counter)
    bytes_by_owner: Counter[str] = field(default_factory=Counter)

    def commonest(self) -> str:
        return max(self.bytes_by_type, key=lambda name: self.bytes_by_type[name], default="")


def _tally(window: Window, table: Iterable[TensorEntry], alignment: int) -> _Tally:
    """Flaw if the file ends before the last of the tensors does; the window stands behind their table."""
    tally = _Tally()
    for each in table:
        tally.parameters += math.prod(each.shape)
        tally.bytes_by_owner[".".join(each.name.split(".")[: 2 if each.name.startswith("blk.") else 1])] += each.size
        tally.bytes_by_type[each.type] += each.size
        tally.end = max(tally.end, each.offset + each.size)
    expected = -(-window.place // alignment) * alignment + tally.end
    if tally.end and expected > window.size:
        raise truncated(expected, window.size)
    return tally
