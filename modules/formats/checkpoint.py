"""A folder of weights as transformers lays it out: what its JSON files say, and whether its weight files are whole.

Source: the safetensors format's description; the files that transformers, AutoGPTQ, AutoAWQ and ExLlamaV2 write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from modules.formats.model_shape import NO_TENSORS, ModelShape, TensorSizes, measure_tensors, model_shape
from modules.formats.quantization import PLAIN, Packing, packing
from modules.options.load import OPTIONS
from modules.options.option import Value
from modules.system.bounded_reader import Window, broken_json, damage, examine, foreign, readable, truncated

Json = dict[str, Any]

ABOUT = (
    "config.json",
    "quantize_config.json",
    "quant_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "model_index.json",
)
"""The files that describe a checkpoint, as `read_about` reads them and `Checkpoint` takes them."""

_LONGEST = 100_000_000  # bytes of JSON: the safetensors format's own limit
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_FORMATS = ("gptq", "awq", "exl2", "exl3", "mlx")  # the quantisations that need a loader of their own
_BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq"}  # files of their own, before config.json had it
_ESTIMATED = {"", "gptq", "awq", "exl2"}  # whose memory can be told beforehand
_PLAIN_ROPE = 10000


def read_about(path: Path) -> Json:
    """One of the files in ABOUT; a bare template as if it stood in JSON. ModelProblem, OSError.

    Of those that run to megabytes only what is used here: of an index the names of the files.
    """
    if path.suffix == ".jinja":
        return {"chat_template": examine(path, _whole_text)}
    found = read_json(path)
    if path.name == "tokenizer_config.json":
        return {"chat_template": found.get("chat_template")}
    if path.name.endswith(".index.json"):
        return {"files": sorted({str(each) for each in _part(found, "weight_map").values()})}
    return found


@dataclass(frozen=True)
class Tensors:
    """How large the tensors of a file are, and how they are packed."""

    sizes: TensorSizes = NO_TENSORS
    packing: Packing = PLAIN

    @staticmethod
    def from_json(facts: Mapping[str, Any]) -> Tensors:
        """The inverse of `dataclasses.asdict`."""
        return Tensors(TensorSizes(**facts["sizes"]), Packing(**facts["packing"]))


def read_json(path: Path) -> Json:
    """The JSON object in the file. ModelProblem, OSError."""
    return examine(path, lambda window: _json(window, window.size))


def read_weights(path: Path) -> Tensors:
    """What the header of a .safetensors file says. Of PyTorch's .bin and .pt only the kind of file is looked at (a
    pickle is a program). ModelProblem, OSError."""
    return examine(path, _safetensors if path.suffix.lower() == ".safetensors" else _pytorch)


@dataclass(frozen=True)
class Stored:
    """A tensor in a .safetensors file: `dtype` such as "BF16", its `size` bytes from `place` in the file on."""

    dtype: str
    shape: tuple[int, ...]
    place: int
    size: int


def read_table(path: Path) -> dict[str, Stored]:
    """Every tensor of a .safetensors file that is whole, by its name. ModelProblem, OSError."""
    return examine(path, _stored)


def _whole_text(window: Window) -> str:
    return window.take(min(window.size, _LONGEST)).decode("utf-8", "replace")


def _json(window: Window, length: int) -> Json:
    """The next `length` bytes as a JSON object."""
    head = window.peek()
    if length > _LONGEST:
        raise damage(f"its JSON has {length:,} bytes", f"其 JSON 长达 {length:,} 字节")
    try:
        found = json.loads(window.take(length))
    except json.JSONDecodeError as error:
        raise (
            broken_json(error.lineno, error.colno) if head[:1] == b"{" else foreign("JSON", head, window.size)
        ) from None
    except (ValueError, RecursionError):
        raise foreign("JSON", head, window.size) from None
    if not isinstance(found, dict):
        raise foreign("JSON", head, window.size)
    return found


def _pytorch(window: Window) -> Tensors:
    head = window.peek()
    if not head.startswith((b"PK\x03\x04", b"\x80\x02")):  # a zip archive, or the bare pickle of before 2020
        raise foreign("PyTorch", head, window.size)
    return Tensors()


def _stored(window: Window) -> dict[str, Stored]:
    table = _table(window)
    found = {}
    for name, each in table.items():
        begin, end = each["data_offsets"]
        if begin > end:
            raise damage("a tensor ends before it begins", "某个张量的终点在起点之前")
        found[name] = Stored(str(each.get("dtype")), tuple(each["shape"]), window.place + begin, end - begin)
    return found


def _safetensors(window: Window) -> Tensors:
    table = _table(window)
    packed = packing(table, lambda name: tuple(table[name]["shape"]) if name in table else ())
    return Tensors(measure_tensors(table), packed)


def _table(window: Window) -> Json:
    """The header of a .safetensors file, every entry checked; the window is then where the data begins."""
    head = window.peek()
    if head[8:9] != b"{" or int.from_bytes(head[:8], "little") > _LONGEST:
        raise foreign("safetensors", head, window.size)
    table = _json(window, window.u64())
    table.pop("__metadata__", None)
    expected = window.place + max((_end(each) for each in table.values()), default=0)
    if expected > window.size:
        raise truncated(expected, window.size)
    return table


def _end(entry: object) -> int:
    """Of an entry of the table, whose form is checked: where its bytes end in the data."""
    shape = entry.get("shape") if isinstance(entry, dict) else None
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise damage("a tensor lacks its shape or its place", "某个张量缺少形状或位置")
    return offsets[1]


def _naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 1 << 63 for each in value)


def indexed(about: Mapping[str, Json], suffix: str) -> set[str]:
    """The weight files that the index for ".safetensors" or ".bin" names; empty if there is no index."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    return set(about.get(f"{stem}{suffix}.index.json", {}).get("files", ()))


class Checkpoint:
    """What a checkpoint's files say; `about` is what `read_about` made of each, by name. Nonsense is ignored.

    `packed` is what the weights show; the JSON files, where they speak, are believed.
    """

    def __init__(self, about: Mapping[str, Json], packed: Packing = PLAIN) -> None:
        """`method` is the name of the quantisation, "" if there is none."""
        self._about = about
        self._packed = packed
        config = about.get("config.json", {})
        # Of a model that also sees or hears, the language model's part is inside.
        self._config = _part(config, "text_config") | config
        file, method = next((pair for pair in _BESIDE.items() if pair[0] in about), ("", ""))
        apple = _part(config, "quantization")  # MLX writes it; beside it, a "quantization_config" without a method
        self._quantization = apple | about.get(file, {}) | _part(config, "quantization_config")
        method = _word(self._quantization, "quant_method") or method or ("mlx" if apple else "") or packed.method
        self.method = method.lower()

    @property
    def format(self) -> str:
        """ "gptq", "awq", "exl2", "exl3", "mlx" or "diffusers"; "" if the weights are stored plainly."""
        if "model_index.json" in self._about or "_class_name" in self._about.get("config.json", {}):
            return "diffusers"
        return self.method if self.method in _FORMATS else ""

    @property
    def architecture(self) -> str:
        return _word(self._config, "model_type")

    @property
    def layers(self) -> int:
        return _whole(self._config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")

    @property
    def context_length(self) -> int:
        return _whole(self._config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length")

    @property
    def quantization(self) -> str:
        """Such as "GPTQ 4-bit 128g", "EXL2 4.25-bit", "FP8"; of plain weights their type, such as "BF16"."""
        if not self.method:
            return _DTYPES.get(_word(self._config, "dtype", "torch_dtype").removeprefix("torch."), "")
        bits, group = self._bits(), self._group()
        return self.method.upper() + (f" {bits:g}-bit" if bits else "") + (f" {group}g" if group > 0 else "")

    def _bits(self) -> float:
        four, eight = (self._quantization.get(f"load_in_{bits}bit") is True for bits in (4, 8))  # bitsandbytes
        return _number(self._quantization, "bits", "w_bit") or 4.0 * four or 8.0 * eight or self._shown().bits

    def _group(self) -> int:
        return _whole(self._quantization, "group_size", "q_group_size", least=-1) or self._shown().group

    def _shown(self) -> Packing:
        return self._packed if self._packed.method == self.method else PLAIN

    @property
    def chat_template(self) -> str:
        """The template in its own file, else the tokenizer's; of several, the one called "default"."""
        own = self._about.get("chat_template.jinja") or self._about.get("tokenizer_config.json", {})
        several = own.get("chat_template")
        if isinstance(several, list):
            own = next((each for each in several if isinstance(each, dict) and each.get("name") == "default"), {})
        return _word(own, "chat_template", "template")

    def shape(self, sizes: TensorSizes, size: int) -> ModelShape | None:
        """How large it is, with `sizes` and bytes of its weights; None of one whose memory we cannot tell."""
        if not {self.method, self.format} <= _ESTIMATED:
            return None
        return model_shape(self._config, sizes, size, self.method)

    def defaults(self) -> dict[str, Value]:
        """The load options that follow from the files, those that differ from no scaling and no quantisation."""
        found: dict[str, Value] = {"max_seq_len": self.context_length} if self.context_length else {}
        base, factor = self._rope()
        if base not in (0, _PLAIN_ROPE):
            found["rope_freq_base"] = base
        if factor > 1:
            found["compress_pos_emb"] = factor
        return found | (self._gptq() if self.method == "gptq" else {})

    def _rope(self) -> tuple[float, float]:
        """The base frequency, and the factor of linear scaling; 0 where there is none."""
        rope = _part(self._config, "rope_scaling") | _part(self._config, "rope_parameters")
        linear = _word(rope, "rope_type", "type") == "linear"
        base = _number(self._config, "rope_theta") or _number(rope, "rope_theta")
        return base, _number(rope, "factor") if linear else 0.0

    def _gptq(self) -> dict[str, Value]:
        found: dict[str, Value] = {"wbits": int(self._bits()), "groupsize": self._group()}
        # What the options do not offer was made by a newer program, which wrote it where the loader itself looks.
        found = {key: value for key, value in found.items() if value and str(value) in map(str, OPTIONS[key].choices)}
        return ({"desc_act": self._quantization.get("desc_act") is True} if self._quantization else {}) | found


def _part(source: Json, key: str) -> Json:
    found = source.get(key)
    return found if isinstance(found, dict) else {}


def _whole(source: Json, *keys: str, least: int = 1) -> int:
    """The first of `keys` that holds a whole number not below `least`; 0 if none does."""
    values = (source.get(key) for key in keys)
    return next((each for each in values if type(each) is int and least <= each < 1 << 32), 0)


def _number(source: Json, *keys: str) -> float:
    """The first of `keys` that holds a positive number; 0 if none does."""
    values = (source.get(key) for key in keys)
    numbers = (float(each) for each in values if isinstance(each, (int, float)) and 0 < each < 1e30)
    return next(numbers, 0.0)


def _word(source: Json, *keys: str) -> str:
    """The first of `keys` that holds a text, fit to be shown; "" if none does."""
    values = (source.get(key) for key in keys)
    return next((readable(each) for each in values if isinstance(each, str)), "")
