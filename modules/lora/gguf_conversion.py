"""A LoRA in PEFT's format made into a GGUF adapter, which is kept beside it until the LoRA changes.

llama.cpp multiplies B·A by alpha over the rank of the pair, with one alpha for the whole file: where PEFT's differs
between modules, the difference goes into B. Rows of B are put into the order that llama.cpp's weights have.

Source: llama.cpp's llama-adapter.cpp (what it asks of the file), and peft's Linear layer (what it computes).
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from modules.core.errors import ModelProblem, Words
from modules.core.lora_errors import LoraInexpressible, LoraNotWritten
from modules.formats.checkpoint import Stored, read_table
from modules.formats.gguf_header import GgufHeader, read_header
from modules.formats.gguf_writer import Planned, write
from modules.lora.adapter_files import AdapterConfig, Pair, tensor_name
from modules.lora.catalog import CONFIG, LoraRecord
from modules.lora.tensor_names import ARCHITECTURES, HEADS, gguf_name, reordered
from modules.system.bounded_reader import named, truncated

FOLDER = ".converted"
_VERSION = 1  # to be raised whenever the same LoRA comes out differently
_STAMP = "webui.made_from"
_OF_THE_MODEL = ".base_layer.weight"
_CODES = {"F32": "f", "F16": "e"}


@dataclass(frozen=True)
class _Step:
    """A tensor to be written, and what is done to the one it comes from: its rows reordered within so many `heads`
    (0: not at all), everything multiplied by `factor`."""

    planned: Planned
    source: Stored
    heads: int = 0
    factor: float = 1.0


def converted(record: LoraRecord, model: GgufHeader) -> Path:
    """The GGUF adapter made of `record`, of PEFT's kind, for models like `model`; made now, if it is not there.

    ModelProblem, LoraInexpressible (by name, what cannot be said in GGUF), LoraNotWritten.
    """
    if record.problem or record.config is None:
        raise record.problem or ValueError(f"{record.name} is not PEFT's")
    path = record.path / FOLDER / _file_name(model)
    try:
        stamp = _stamp(record)
        if not _is_current(path, stamp):
            _make(record, record.config, model, path, stamp)
    except OSError as error:
        raise LoraNotWritten(record.name, str(path.parent), error.strerror or type(error).__name__) from None
    return path


def _file_name(model: GgufHeader) -> str:
    """Models of one architecture may share a file, unless rows are reordered within another number of heads."""
    heads = [f"-{_heads(model, layer, 0)}" for layer in HEADS if reordered(model.architecture, f"blk.0.{layer}.weight")]
    return model.architecture + "".join(heads) + ".gguf"


def _stamp(record: LoraRecord) -> int:
    """Another number once a file of the LoRA, or this program's way, has changed."""
    facts = [os.stat(path) for path in (record.path / CONFIG, record.weights)]
    seen = [_VERSION, *((each.st_size, each.st_mtime_ns) for each in facts)]
    return int.from_bytes(hashlib.blake2b(repr(seen).encode(), digest_size=8).digest(), "little")


def _is_current(path: Path, stamp: int) -> bool:
    try:
        return read_header(path).numbers.get(_STAMP) == stamp
    except (ModelProblem, FileNotFoundError):
        return False


def _make(record: LoraRecord, config: AdapterConfig, model: GgufHeader, path: Path, stamp: int) -> None:
    _refuse_what_is_no_pair(record, config, model.architecture)
    alpha = _alpha(record, config)
    steps = list(_steps(record, config, model, alpha))
    facts: dict[str, str | int | float] = {
        "general.type": "adapter",
        "general.architecture": model.architecture,
        "general.name": record.name,
        "general.base_model.0.name": record.base,
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
        _STAMP: stamp,
    }
    path.parent.mkdir(exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with open(descriptor, "wb") as file, record.weights.open("rb") as weights, named(record.weights.name):
            write(file, facts, [each.planned for each in steps], (_content(weights, each) for each in steps))
            file.flush()
            os.fsync(file.fileno())
        read_header(Path(part))  # ModelProblem if it is not what was meant to be written
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def _refuse_what_is_no_pair(record: LoraRecord, config: AdapterConfig, architecture: str) -> None:
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise _inexpressible(
            record,
            f"models of the architecture {tensor_name(architecture)} are not known here, only {known}.",
            f"尚不支持架构 {tensor_name(architecture)}，仅支持 {known}。",
        )
    # PEFT saves the model's own output weights too if the output is among the targets: those are no change.
    others = [each for each in record.others if not each.endswith(_OF_THE_MODEL)]
    unsaid = [*config.beyond, *(("fan_in_fan_out",) if config.transposed else ()), *others]
    if unsaid:
        raise _inexpressible(
            record,
            f"it has more than A and B of linear layers: {tensor_name(unsaid[0])}.",
            f"除线性层的 A 和 B 外，它还包含 {tensor_name(unsaid[0])}。",
        )


def _inexpressible(record: LoraRecord, en: str, zh: str) -> LoraInexpressible:
    what: Words = {"en": en, "zh": zh}
    return LoraInexpressible(record.name, what)


def _alpha(record: LoraRecord, config: AdapterConfig) -> float:
    """The alpha that most pairs need: scale times rank. It is positive, for llama.cpp takes 0 to mean no scaling."""
    needed = Counter(abs(config.scale_of(pair.module) * pair.rank) for pair in record.pairs)
    needed.pop(0.0, None)
    if not needed:
        raise _inexpressible(record, "its lora_alpha is 0: it changes nothing.", "其 lora_alpha 为 0，不起任何作用。")
    return needed.most_common(1)[0][0]


def _steps(record: LoraRecord, config: AdapterConfig, model: GgufHeader, alpha: float) -> Iterator[_Step]:
    table = read_table(record.weights)
    for pair in record.pairs:
        name = None if pair.embedding else gguf_name(model.architecture, pair.module)
        first, second = table[pair.a], table[pair.b]
        if name is None or len(first.shape) != 2 or len(second.shape) != 2:
            raise _inexpressible(
                record,
                f"llama.cpp has no place for a LoRA of {tensor_name(pair.module)} in {model.architecture}.",
                f"llama.cpp 的 {model.architecture} 中没有与 {tensor_name(pair.module)} 对应的 LoRA。",
            )
        yield _step(f"{name}.lora_a", first)
        factor = config.scale_of(pair.module) * pair.rank / alpha
        yield _step(f"{name}.lora_b", second, _heads_of(record, pair, name, model), factor)


def _step(name: str, source: Stored, heads: int = 0, factor: float = 1.0) -> _Step:
    """F16 stays so, unless it is multiplied; all else becomes F32, in which nothing is lost."""
    factor = 1.0 if math.isclose(factor, 1.0, rel_tol=1e-9) else factor
    kind = "F16" if source.dtype == "F16" and factor == 1.0 else "F32"
    return _Step(Planned(name, kind, source.shape[::-1]), source, heads, factor)


def _heads_of(record: LoraRecord, pair: Pair, name: str, model: GgufHeader) -> int:
    if not reordered(model.architecture, name):
        return 0
    _, block, layer, _ = name.split(".")
    heads = _heads(model, layer, int(block))
    if pair.outputs % (2 * heads):
        raise _inexpressible(
            record,
            f"the {pair.outputs} outputs of {tensor_name(pair.module)} cannot be shared out among {heads} heads.",
            f"{tensor_name(pair.module)} 的 {pair.outputs} 个输出无法平分给 {heads} 个注意力头。",
        )
    return heads


def _heads(model: GgufHeader, layer: str, block: int) -> int:
    """Some models have a number for each block. Where there are as many of keys as of queries, it is said once."""
    found = model.numbers.get(HEADS[layer]) or model.numbers.get(HEADS["attn_q"]) or 0
    if isinstance(found, tuple):
        found = found[block] if block < len(found) else 0
    return max(int(found), 1)


def _content(weights: BinaryIO, step: _Step) -> bytes:
    """The bytes to be written. Flaw if the file has shrunk meanwhile."""
    weights.seek(step.source.place)
    raw = weights.read(step.source.size)
    if len(raw) != step.source.size:
        raise truncated(step.source.place + step.source.size, step.source.place + len(raw))
    if step.heads:
        raw = interleaved(raw, step.source.shape[0], step.heads)
    kind = step.source.dtype
    if kind == "BF16":
        raw, kind = _widened(raw), "F32"
    return raw if step.factor == 1.0 else _multiplied(raw, kind, step.factor)


def interleaved(raw: bytes, rows: int, heads: int) -> bytes:
    """`rows` of equal length, in each of `heads` the second half put between the rows of the first."""
    length, half = len(raw) // rows, rows // heads // 2
    order = (2 * half * head + part * half + row for head in range(heads) for row in range(half) for part in (0, 1))
    return b"".join(raw[at * length : (at + 1) * length] for at in order)


def _widened(raw: bytes) -> bytes:
    """BF16 as F32: it is its upper half."""
    wide = bytearray(2 * len(raw))
    wide[2::4], wide[3::4] = raw[::2], raw[1::2]
    return bytes(wide)


def _multiplied(raw: bytes, kind: str, factor: float) -> bytes:
    count = len(raw) // struct.calcsize(_CODES[kind])
    return struct.pack(f"<{count}f", *(each * factor for each in struct.unpack(f"<{count}{_CODES[kind]}", raw)))
