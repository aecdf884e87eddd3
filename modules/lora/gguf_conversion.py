"""Convert a LoRA of PEFT to a GGUF adapter, which is cached beside it until the LoRA changes.

llama.cpp scales B·A by alpha / rank, with one alpha for the whole file. Where PEFT's alpha differs between modules, the
difference is multiplied into B. Rows of B are permuted to the order of llama.cpp's weights.

Source: llama-adapter.cpp of llama.cpp (the file it expects), and the Linear layer of peft (what it computes).
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

from modules.core.errors import ModelProblem, Words, both
from modules.core.lora_errors import LoraInexpressible, LoraNotWritten
from modules.formats.gguf_header import GgufHeader, read_header
from modules.formats.gguf_writer import PlannedTensor, write_gguf
from modules.formats.peft_features import LLAMACPP, is_base_weight, unsupported_features
from modules.formats.safetensors_header import StoredTensor, read_safetensors_table
from modules.lora.adapter_files import AdapterConfig, Pair, tensor_name
from modules.lora.catalog import CONFIG, CONVERTED, LoraRecord
from modules.lora.support import inexpressible, uses
from modules.lora.tensor_names import ARCHITECTURES, HEADS, gguf_name, has_interleaved_heads
from modules.system.format_errors import as_model_problem, truncated_file

_VERSION = 1  # increase it whenever the same LoRA is converted differently
_STAMP = "webui.made_from"
_STRUCT_CODES = {"F32": "f", "F16": "e"}


@dataclass(frozen=True)
class _Step:
    """A tensor to write, made from `source`: rows interleaved within `heads` (0: not at all), times `factor`."""

    planned: PlannedTensor
    source: StoredTensor
    heads: int = 0
    factor: float = 1.0


def converted(record: LoraRecord, model: GgufHeader) -> Path:
    """Return the path of the GGUF adapter for models like `model`, converting the LoRA if there is no current one.

    Raises ModelProblem, LoraInexpressible for what GGUF cannot express, or LoraNotWritten.
    """
    if record.problem or record.config is None:
        raise record.problem or ValueError(f"{record.name} is not a LoRA of PEFT")
    path = record.path / CONVERTED / _file_name(model)
    try:
        stamp = _stamp(record)
        if not _is_current(path, stamp):
            _convert(record, record.config, model, path, stamp)
    except OSError as error:
        raise LoraNotWritten(record.name, str(path.parent), error.strerror or type(error).__name__) from None
    return path


def _file_name(model: GgufHeader) -> str:
    """Return a name shared by models for which the adapter is the same: by architecture and numbers of heads."""
    layers = [layer for layer in HEADS if has_interleaved_heads(model.architecture, f"blk.0.{layer}.weight")]
    heads = [_heads_in_name(_stored_heads(model, layer)) for layer in layers]
    return "-".join([model.architecture, *heads]) + ".gguf"


def _heads_in_name(count: int | tuple[int, ...]) -> str:
    if isinstance(count, tuple):  # one for each of up to hundreds of blocks
        return hashlib.blake2b(repr(count).encode(), digest_size=8).hexdigest()
    return str(max(count, 1))


def _stamp(record: LoraRecord) -> int:
    """Return a number that differs once a file of the LoRA or `_VERSION` has changed."""
    stats = [os.stat(path) for path in (record.path / CONFIG, record.weights)]
    content = [_VERSION, *((stat.st_size, stat.st_mtime_ns) for stat in stats)]
    return int.from_bytes(hashlib.blake2b(repr(content).encode(), digest_size=8).digest(), "little")


def _is_current(path: Path, stamp: int) -> bool:
    try:
        return read_header(path).numbers.get(_STAMP) == stamp
    except (ModelProblem, FileNotFoundError):
        return False


def _convert(record: LoraRecord, config: AdapterConfig, model: GgufHeader, path: Path, stamp: int) -> None:
    _refuse_unsupported(record, config, model.architecture)
    alpha = _alpha(record, config)
    steps = list(_steps(record, config, model, alpha))
    metadata: dict[str, str | int | float] = {
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
        with (
            open(descriptor, "wb") as file,
            record.weights.open("rb") as weights,
            as_model_problem(record.weights.name),
        ):
            write_gguf(file, metadata, [step.planned for step in steps], (_content(weights, step) for step in steps))
            file.flush()
            os.fsync(file.fileno())
        read_header(Path(part))  # raises ModelProblem if the file is not valid
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def _refuse_unsupported(record: LoraRecord, config: AdapterConfig, architecture: str) -> None:
    if architecture not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        raise _inexpressible(
            record,
            f"the architecture {tensor_name(architecture)} is not supported; supported are {supported}.",
            f"尚不支持架构{tensor_name(architecture, 'zh')}，仅支持 {supported}。",
        )
    others = [name for name in record.others if not is_base_weight(name)]
    if unsupported := [*unsupported_features(config.features, LLAMACPP), *others]:
        raise inexpressible(record, LLAMACPP, uses(unsupported[0]))


def _inexpressible(record: LoraRecord, en: str, zh: str) -> LoraInexpressible:
    reason: Words = {"en": en, "zh": zh}
    return inexpressible(record, LLAMACPP, reason)


def _alpha(record: LoraRecord, config: AdapterConfig) -> float:
    """Return the alpha (scale times rank) that most pairs need; positive, for llama.cpp does not scale at 0."""
    needed = Counter(abs(config.scale_of(pair.module) * pair.rank) for pair in record.pairs)
    needed.pop(0.0, None)
    if not needed:
        reason: Words = {
            "en": "its lora_alpha is 0: no loader gives it an effect.",
            "zh": "其 lora_alpha 为 0，无论用哪个加载器都不起作用。",
        }
        raise LoraInexpressible(record.name, LLAMACPP, reason, both(""))
    return needed.most_common(1)[0][0]


def _steps(record: LoraRecord, config: AdapterConfig, model: GgufHeader, alpha: float) -> Iterator[_Step]:
    table = read_safetensors_table(record.weights)
    for pair in record.pairs:
        name = None if pair.embedding else gguf_name(model.architecture, pair.module)
        a, b = table[pair.a], table[pair.b]
        if name is None or len(a.shape) != 2 or len(b.shape) != 2:
            raise _inexpressible(
                record,
                f"llama.cpp cannot apply a LoRA to {tensor_name(pair.module)} of {model.architecture}.",
                f"llama.cpp 无法对 {model.architecture} 的{tensor_name(pair.module, 'zh')}应用 LoRA。",
            )
        yield _step(f"{name}.lora_a", a)
        factor = config.scale_of(pair.module) * pair.rank / alpha
        yield _step(f"{name}.lora_b", b, _interleaved_heads(record, pair, name, model), factor)


def _step(name: str, source: StoredTensor, heads: int = 0, factor: float = 1.0) -> _Step:
    # F16 is kept unless it is multiplied; anything else becomes F32, which loses nothing.
    factor = 1.0 if math.isclose(factor, 1.0, rel_tol=1e-9) else factor
    kind = "F16" if source.dtype == "F16" and factor == 1.0 else "F32"
    return _Step(PlannedTensor(name, kind, source.shape[::-1]), source, heads, factor)


def _interleaved_heads(record: LoraRecord, pair: Pair, name: str, model: GgufHeader) -> int:
    if not has_interleaved_heads(model.architecture, name):
        return 0
    _, block, layer, _ = name.split(".")
    heads = _heads(model, layer, int(block))
    if pair.outputs % (2 * heads):
        raise _inexpressible(
            record,
            f"the {pair.outputs} outputs of {tensor_name(pair.module)} cannot be divided among {heads} heads.",
            f"{tensor_name(pair.module, 'zh')}的 {pair.outputs} 个输出无法平分给 {heads} 个注意力头。",
        )
    return heads


def _heads(model: GgufHeader, layer: str, block: int) -> int:
    count = _stored_heads(model, layer)
    if isinstance(count, tuple):
        count = count[block] if block < len(count) else 0
    return max(count, 1)


def _stored_heads(model: GgufHeader, layer: str) -> int | tuple[int, ...]:
    """Return the number of heads, or some models' numbers for each block; 0 if it is unknown.

    If there are as many key as query heads, only the latter is stored.
    """
    return model.numbers.get(HEADS[layer]) or model.numbers.get(HEADS["attn_q"]) or 0


def _content(weights: BinaryIO, step: _Step) -> bytes:
    """Return the bytes to write. Raises FormatError if the file has become shorter."""
    weights.seek(step.source.offset)
    raw = weights.read(step.source.size)
    if len(raw) != step.source.size:
        raise truncated_file(step.source.offset + step.source.size, step.source.offset + len(raw))
    if step.heads:
        raw = interleaved(raw, step.source.shape[0], step.heads)
    kind = step.source.dtype
    if kind == "BF16":
        raw, kind = _widened(raw), "F32"
    return raw if step.factor == 1.0 else _multiplied(raw, kind, step.factor)


def interleaved(raw: bytes, rows: int, heads: int) -> bytes:
    """Interleave the two halves of each head: rows 0, n, 1, n + 1, … for a head of 2n `rows`, all of equal length."""
    length, half = len(raw) // rows, rows // heads // 2
    order = (2 * half * head + part * half + row for head in range(heads) for row in range(half) for part in (0, 1))
    return b"".join(raw[row * length : (row + 1) * length] for row in order)


def _widened(raw: bytes) -> bytes:
    """Convert BF16 to F32, whose upper half it is."""
    wide = bytearray(2 * len(raw))
    wide[2::4], wide[3::4] = raw[::2], raw[1::2]
    return bytes(wide)


def _multiplied(raw: bytes, kind: str, factor: float) -> bytes:
    code = _STRUCT_CODES[kind]
    count = len(raw) // struct.calcsize(code)
    return struct.pack(f"<{count}f", *(number * factor for number in struct.unpack(f"<{count}{code}", raw)))
