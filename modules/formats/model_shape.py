"""What a checkpoint's files say of its size, as far as the memory it takes depends on it.

Source: config.json as transformers writes it, the headers of the .safetensors files, which layers bitsandbytes
replaces (the linear ones, but neither the output nor what looks up embeddings), and the tensors of quantised layers
(`quantised`). Nonsense is taken for nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_NOT_LINEAR = ("embed", "wte", "wpe", "lm_head", "shared", "experts", "router", "norm")
_LOOKS_BACK = ("full_attention", "sliding_attention", "chunked_attention")
_TURNED = ("rope_theta", "rope_parameters", "rope_scaling", "rotary_emb_base")
_MOST_LAYERS, _LARGEST = 1024, 1 << 32
_PACKED = ("qweight", "qzeros", "scales", "g_idx", "q_weight", "q_invperm", "q_scale", "q_scale_max", "q_groups")
_OUTPUTS = ("lm_head", "output")  # the second is InternLM2's
_OF_FOUR_BITS = 8  # in a word of 32; the oldest GPTQ files do not tell their bits
_BYTES = {"I64": 8, "I32": 4, "F32": 4, "I16": 2, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Sizes:
    """Elements of the tensors of a file: of all, of those that bitsandbytes quantises, of the largest of these; and
    the type of most ("BF16"). Layers that are quantised already count otherwise: bytes of their tensors, `packed`, and
    the weights that these stand for, `unpacked`, of the largest of them `widest`. `output` is whether an output is
    among all of them: without one the embeddings serve as that."""

    elements: int = 0
    linear: int = 0
    largest: int = 0
    stored: str = ""
    packed: int = 0
    unpacked: int = 0
    widest: int = 0
    output: bool = False


NOTHING = Sizes()


@dataclass(frozen=True)
class Shape:
    """`size` is in bytes, of all files; `looking_back` are the layers that keep keys and values, `windowed` those of
    them that keep but the last `window` tokens. `stretched` is by how much linear scaling has stretched the context
    already, 0 of a model whose positions cannot be. `method` is how the weights are quantised, "" if they are not."""

    size: int
    sizes: Sizes
    looking_back: int
    windowed: int
    window: int
    hidden: int
    network: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    context: int
    stretched: float
    method: str = ""


def sizes_of(table: Mapping[str, Any]) -> Sizes:
    """Of the table of a .safetensors file, whose shapes have been checked."""
    parts = {name: entry for name, entry in table.items() if name.rpartition(".")[2] in _PACKED}
    plain = {name: entry for name, entry in table.items() if name not in parts}
    elements = {name: math.prod(entry["shape"]) for name, entry in plain.items()}
    linear = [elements[name] for name, entry in plain.items() if _is_linear(name, entry["shape"])]
    types: Counter[str] = Counter()
    for name, entry in plain.items():
        types[str(entry.get("dtype"))] += elements[name]
    stored = types.most_common(1)[0][0] if types else ""
    layers = [_weights(name, parts) for name in parts if name.endswith((".qweight", ".q_weight"))]
    return Sizes(
        *(sum(elements.values()), sum(linear), max(linear, default=0), stored),
        *(sum(map(_bytes, parts.values())), sum(layers), max(layers, default=0)),
        output=any(map(_is_output, table)),
    )


def _is_output(name: str) -> bool:
    """Packed or not, and also in a model of which the language model is a part ("language_model.lm_head.weight")."""
    layer = name.rpartition(".")[0]
    return layer in _OUTPUTS or layer.endswith(f".{_OUTPUTS[0]}")


def _bytes(entry: Mapping[str, Any]) -> int:
    return int(math.prod(entry["shape"])) * _BYTES.get(str(entry.get("dtype")), 0)


def _weights(name: str, parts: Mapping[str, Any]) -> int:
    """How many the layer has whose packed weights are called `name`: inputs times outputs."""

    def shape(kind: str) -> list[int]:
        found: list[int] = parts.get(f"{name.rpartition('.')[0]}.{kind}", {}).get("shape", [])
        return found

    rows, columns = parts[name]["shape"] if len(parts[name]["shape"]) == 2 else (0, 0)
    outputs = shape("scales")[1] if len(shape("scales")) == 2 else columns
    inputs = (shape("g_idx") or shape("q_invperm") or [rows * (_OF_FOUR_BITS if columns == outputs else 1)])[0]
    return inputs * outputs


def _is_linear(name: str, shape: list[int]) -> bool:
    return len(shape) == 2 and name.endswith(".weight") and not any(part in name for part in _NOT_LINEAR)


def summed(parts: Iterable[Sizes]) -> Sizes:
    """Of all files of a model."""
    each = list(parts)
    return Sizes(
        sum(part.elements for part in each),
        sum(part.linear for part in each),
        max((part.largest for part in each), default=0),
        max(each, key=lambda part: part.elements, default=NOTHING).stored,
        sum(part.packed for part in each),
        sum(part.unpacked for part in each),
        max((part.widest for part in each), default=0),
        any(part.output for part in each),
    )


def shape(config: Mapping[str, Any], sizes: Sizes, size: int, method: str = "") -> Shape | None:
    """None where the files do not tell enough: of what is no language model, or whose weights are no .safetensors."""
    layers = _whole(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    hidden = _whole(config, "hidden_size", "n_embd", "d_model")
    if not (sizes.elements and layers and hidden) or layers > _MOST_LAYERS:
        return None
    heads = _whole(config, "num_attention_heads", "n_head", "num_heads")
    looking_back, windowed = _kinds(config, layers if heads else 0)
    return Shape(
        size=size,
        sizes=sizes,
        looking_back=looking_back,
        windowed=windowed,
        window=_whole(config, "sliding_window"),
        hidden=hidden,
        network=_whole(config, "intermediate_size", "n_inner", "ffn_dim", "d_ff") or 4 * hidden,
        heads=heads,
        kv_heads=_whole(config, "num_key_value_heads") or heads,
        head=_whole(config, "head_dim", "d_kv") or hidden // max(heads, 1),
        vocabulary=_whole(config, "vocab_size"),
        context=_whole(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        stretched=_stretched(config),
        method=method,
    )


def _kinds(config: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """How many layers keep keys and values, and how many of them only of the last tokens."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return sum(each in _LOOKS_BACK for each in kinds), sum(each in _LOOKS_BACK[1:] for each in kinds)
    windowed = _whole(config, "sliding_window") and config.get("use_sliding_window") is not False
    return layers, layers if windowed else 0


def _stretched(config: Mapping[str, Any]) -> float:
    if not any(config.get(key) for key in _TURNED):
        return 0.0
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, dict) or "linear" not in (rope.get("rope_type"), rope.get("type")):
        return 1.0
    factor = rope.get("factor")
    return float(factor) if isinstance(factor, (int, float)) and 1 <= factor < _LARGEST else 1.0


def _whole(config: Mapping[str, Any], *keys: str) -> int:
    """The first of `keys` that holds a positive whole number; 0 if none does."""
    values = (config.get(key) for key in keys)
    return next((each for each in values if type(each) is int and 0 < each < _LARGEST), 0)
