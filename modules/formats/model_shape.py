"""Dimensions of a transformers checkpoint, as far as its memory use depends on them.

Sources: config.json as transformers writes it; the headers of the .safetensors files; which layers bitsandbytes
replaces (the linear ones, but neither the output layer nor the embeddings); the tensors of quantized layers
(`quantization`). Values that make no sense count as missing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modules.formats.json_file import MAX_INTEGER, first_integer
from modules.formats.rope_parameters import linear_factor, rope_parameters

_NOT_LINEAR = ("embed", "wte", "wpe", "lm_head", "shared", "experts", "router", "norm")
_ATTENTION_KINDS = ("full_attention", "sliding_attention", "chunked_attention")
_MAX_LAYERS = 1024
LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
"""The names under which the config.json of an architecture has its number of layers, and its context length."""
_PACKED = ("qweight", "qzeros", "scales", "g_idx", "q_weight", "q_invperm", "q_scale", "q_scale_max", "q_groups")
_OUTPUT_LAYERS = ("lm_head", "output")  # the second is InternLM2's
_WEIGHTS_PER_WORD = 8  # of 4 bits in 32; the oldest GPTQ files do not state their bits
_DTYPE_BYTES = {"I64": 8, "I32": 4, "F32": 4, "I16": 2, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class TensorSizes:
    """Sizes of the tensors in one file, or in all files of a model.

    Plain tensors: `elements` of all, `linear_elements` of those that bitsandbytes quantizes, `largest_linear` of the
    largest of these, and the `dtype` of most elements ("BF16"). Layers that are already quantized: `packed_bytes` of
    their tensors, `packed_weights` that these stand for, `largest_packed` weights of the largest layer. `has_output`
    is whether there is an output layer: without one, the embeddings serve as output.
    """

    elements: int = 0
    linear_elements: int = 0
    largest_linear: int = 0
    dtype: str = ""
    packed_bytes: int = 0
    packed_weights: int = 0
    largest_packed: int = 0
    has_output: bool = False


NO_TENSORS = TensorSizes()


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a model; `size` is the bytes of all weight files.

    `attention_layers` counts the layers with a KV cache, `sliding_window_layers` those of them that keep only the last
    `sliding_window` tokens. `rope_scale` is the factor of linear scaling that config.json sets: 1 for none, 0 for a
    model without rotary positions. `method` names the quantization, such as "gptq"; empty if the weights are plain.
    """

    size: int
    sizes: TensorSizes
    attention_layers: int
    sliding_window_layers: int
    sliding_window: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rope_scale: float
    method: str = ""


def measure_tensors(table: Mapping[str, Any]) -> TensorSizes:
    """Return the sizes of the tensors in a .safetensors header whose entries have been checked."""
    parts = {name: entry for name, entry in table.items() if name.rpartition(".")[2] in _PACKED}
    plain = {name: entry for name, entry in table.items() if name not in parts}
    elements = {name: math.prod(entry["shape"]) for name, entry in plain.items()}
    linear = [elements[name] for name, entry in plain.items() if _is_linear(name, entry["shape"])]
    elements_by_dtype: Counter[str] = Counter()
    for name, entry in plain.items():
        elements_by_dtype[str(entry.get("dtype"))] += elements[name]
    packed = [_packed_weights(name, parts) for name in parts if name.endswith((".qweight", ".q_weight"))]
    return TensorSizes(
        elements=sum(elements.values()),
        linear_elements=sum(linear),
        largest_linear=max(linear, default=0),
        dtype=elements_by_dtype.most_common(1)[0][0] if elements_by_dtype else "",
        packed_bytes=sum(map(_bytes, parts.values())),
        packed_weights=sum(packed),
        largest_packed=max(packed, default=0),
        has_output=any(map(_is_output, table)),
    )


def _is_output(name: str) -> bool:
    """Recognize plain and packed tensors, also within a multimodal model ("language_model.lm_head.weight")."""
    layer = name.rpartition(".")[0]
    return layer in _OUTPUT_LAYERS or layer.endswith(f".{_OUTPUT_LAYERS[0]}")


def _bytes(entry: Mapping[str, Any]) -> int:
    return int(math.prod(entry["shape"])) * _DTYPE_BYTES.get(str(entry.get("dtype")), 0)


def _packed_weights(name: str, parts: Mapping[str, Any]) -> int:
    """Return inputs times outputs of the quantized layer whose packed weights are the tensor `name`."""

    def dimensions(kind: str) -> list[int]:
        shape: list[int] = parts.get(f"{name.rpartition('.')[0]}.{kind}", {}).get("shape", [])
        return shape

    rows, columns = parts[name]["shape"] if len(parts[name]["shape"]) == 2 else (0, 0)
    outputs = dimensions("scales")[1] if len(dimensions("scales")) == 2 else columns
    unordered = [rows * (_WEIGHTS_PER_WORD if columns == outputs else 1)]
    inputs = (dimensions("g_idx") or dimensions("q_invperm") or unordered)[0]
    return inputs * outputs


def _is_linear(name: str, dimensions: list[int]) -> bool:
    return len(dimensions) == 2 and name.endswith(".weight") and not any(part in name for part in _NOT_LINEAR)


def sum_sizes(files: Iterable[TensorSizes]) -> TensorSizes:
    """Return the sizes of a whole model from those of its files."""
    parts = list(files)
    return TensorSizes(
        elements=sum(part.elements for part in parts),
        linear_elements=sum(part.linear_elements for part in parts),
        largest_linear=max((part.largest_linear for part in parts), default=0),
        dtype=max(parts, key=lambda part: part.elements, default=NO_TENSORS).dtype,
        packed_bytes=sum(part.packed_bytes for part in parts),
        packed_weights=sum(part.packed_weights for part in parts),
        largest_packed=max((part.largest_packed for part in parts), default=0),
        has_output=any(part.has_output for part in parts),
    )


def model_shape(config: Mapping[str, Any], sizes: TensorSizes, size: int, method: str = "") -> ModelShape | None:
    """Return the dimensions that `config`, the content of config.json, describes.

    None if it lacks some: the model is no language model, or its weights are not .safetensors.
    """
    layers = first_integer(config, *LAYER_KEYS)
    hidden_size = first_integer(config, "hidden_size", "n_embd", "d_model")
    if not (sizes.elements and layers and hidden_size) or layers > _MAX_LAYERS:
        return None
    heads = first_integer(config, "num_attention_heads", "n_head", "num_heads")
    attention_layers, sliding_window_layers = _count_attention_layers(config, layers if heads else 0)
    return ModelShape(
        size=size,
        sizes=sizes,
        attention_layers=attention_layers,
        sliding_window_layers=sliding_window_layers,
        sliding_window=first_integer(config, "sliding_window"),
        hidden_size=hidden_size,
        intermediate_size=first_integer(config, "intermediate_size", "n_inner", "ffn_dim", "d_ff") or 4 * hidden_size,
        heads=heads,
        kv_heads=first_integer(config, "num_key_value_heads") or heads,
        head_dim=first_integer(config, "head_dim", "d_kv") or hidden_size // max(heads, 1),
        vocab_size=first_integer(config, "vocab_size"),
        context_length=first_integer(config, *CONTEXT_KEYS),
        rope_scale=_rope_scale(config),
        method=method,
    )


def _count_attention_layers(config: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """Return how many layers keep keys and values, and how many of them only within a window."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return sum(kind in _ATTENTION_KINDS for kind in kinds), sum(kind in _ATTENTION_KINDS[1:] for kind in kinds)
    uses_window = first_integer(config, "sliding_window") and config.get("use_sliding_window") is not False
    return layers, layers if uses_window else 0


def _rope_scale(config: Mapping[str, Any]) -> float:
    """Return the largest factor of linear scaling of any layer; 0 without rotary positions."""
    return max((min(linear_factor(rope), MAX_INTEGER) for rope in rope_parameters(config).values()), default=0.0)
