"""Model dimensions and tensor sizes, read from config.json and the headers of weight files."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.catalog.catalog import Catalog
from modules.formats.model_shape import ModelShape, TensorSizes, measure_tensors, model_shape, sum_sizes
from tests.support.quantized_folders import quantized_folder

LAYER = {
    "gptq": {"qweight": [576 // 8, 1536], "qzeros": [9, 192], "scales": [9, 1536], "g_idx": [576]},
    "awq": {"qweight": [576, 1536 // 8], "qzeros": [9, 192], "scales": [9, 1536]},
    "exl2": {"q_weight": [300, 1536], "q_invperm": [576], "q_scale": [9, 192], "q_scale_max": [9], "q_groups": [18]},
}
"""Tensor shapes of a layer with 576 inputs and 1536 outputs, in about 4 bits and groups of 64."""


SIZES = TensorSizes(elements=1000, linear_elements=640, largest_linear=64, dtype="BF16")


def shape_of(folder: Path) -> ModelShape:
    shape = Catalog(folder.parent).find(folder.name).shape
    assert shape is not None
    return shape


def test_the_shape_of_a_real_model_is_measured(smollm2_folder: Path) -> None:
    shape = shape_of(smollm2_folder)
    layer = 576 * 576 * 2 + 576 * 192 * 2 + 3 * 576 * 1536
    assert shape.sizes.linear_elements == 30 * layer
    assert shape.sizes.elements == 30 * layer + 49_152 * 576 + (2 * 30 + 1) * 576
    assert (shape.sizes.largest_linear, shape.sizes.dtype) == (576 * 1536, "BF16")
    assert (shape.attention_layers, shape.heads, shape.kv_heads, shape.head_dim) == (30, 9, 3, 64)
    assert (shape.hidden_size, shape.intermediate_size) == (576, 1536)
    assert (shape.vocab_size, shape.context_length) == (49_152, 8192)


def test_only_matrices_of_linear_layers_are_quantized() -> None:
    table = {
        "model.embed_tokens.weight": [10, 4],
        "lm_head.weight": [10, 4],
        "model.layers.0.mlp.up_proj.weight": [8, 4],
        "model.layers.0.mlp.up_proj.bias": [8],
        "model.layers.0.input_layernorm.weight": [4],
        "model.layers.0.mlp.experts.0.w1.weight": [8, 4],
    }
    sizes = measure_tensors({name: {"shape": shape, "dtype": "F16"} for name, shape in table.items()})
    assert sizes == TensorSizes(elements=156, linear_elements=32, largest_linear=32, dtype="F16", has_output=True)


def test_recurrent_layers_are_not_counted_as_attention_layers() -> None:
    config = {"num_hidden_layers": 4, "hidden_size": 8, "num_attention_heads": 4, "sliding_window": 16}
    kinds = ["linear_attention", "full_attention", "sliding_attention", "linear_attention"]
    shape = model_shape(config | {"layer_types": kinds}, SIZES, 2000)
    assert shape is not None and (shape.attention_layers, shape.sliding_window_layers) == (2, 1)
    shape = model_shape({"num_hidden_layers": 4, "hidden_size": 8}, SIZES, 2000)  # such as Mamba
    assert shape is not None


@pytest.mark.parametrize("method", LAYER)
def test_a_packed_layer_is_measured_in_bytes_and_in_unpacked_weights(method: str) -> None:
    dtypes = {"scales": "F16", "q_scale_max": "F16", "q_invperm": "I16", "q_groups": "I16"}
    table = {f"a.{kind}": {"shape": shape, "dtype": dtypes.get(kind, "I32")} for kind, shape in LAYER[method].items()}
    table["embed.weight"] = {"shape": [10, 576], "dtype": "F16"}
    sizes = measure_tensors(table)
    assert (sizes.elements, sizes.dtype) == (5760, "F16")
    assert (sizes.packed_weights, sizes.largest_packed) == (576 * 1536, 576 * 1536)
    byte_count = sum(a[0] * (a[1] if len(a) > 1 else 1) * (2 if k in dtypes else 4) for k, a in LAYER[method].items())
    assert sizes.packed_bytes == byte_count


def test_gptq_layers_without_g_idx_are_assumed_to_have_4_bits() -> None:
    kinds = {kind: shape for kind, shape in LAYER["gptq"].items() if kind != "g_idx"}
    sizes = measure_tensors({f"a.{kind}": {"shape": shape, "dtype": "I32"} for kind, shape in kinds.items()})
    assert sizes.packed_weights == 576 * 1536


@pytest.mark.parametrize("shape", [[], [3], [1, 2, 3]])
def test_a_packed_layer_of_invalid_shape_counts_as_empty(shape: list[int]) -> None:
    assert measure_tensors({"a.qweight": {"shape": shape, "dtype": "I32"}}).packed_weights == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lm_head.weight", True),
        ("lm_head.qweight", True),
        ("lm_head.q_weight", True),
        ("language_model.lm_head.weight", True),
        ("output.weight", True),  # InternLM2
        ("model.layers.0.attention.output.weight", False),
        ("model.embed_tokens.weight", False),
    ],
)
def test_an_output_layer_is_recognized_by_its_name(name: str, expected: bool) -> None:
    sizes = measure_tensors({name: {"shape": [8, 8], "dtype": "F16"}})
    assert sizes.has_output == expected
    norm = measure_tensors({"model.norm.weight": {"shape": [8], "dtype": "F16"}})
    assert sum_sizes([norm, sizes]).has_output == expected


def test_the_shape_of_a_quantized_folder_is_measured(smollm2_folder: Path) -> None:
    folder = quantized_folder(smollm2_folder, "gptq")
    shape = Catalog(folder.parent).find(folder.name).shape
    assert shape is not None and shape.method == "gptq"
    assert shape.sizes.packed_weights == 30 * (576 * 576 * 2 + 576 * 192 * 2 + 3 * 576 * 1536)
    assert shape.sizes.elements == 49_152 * 576 + (2 * 30 + 1) * 576
