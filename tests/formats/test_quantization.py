"""Detection of a quantization that config.json does not state."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.catalog.catalog import Catalog
from modules.formats.quantization import PLAIN, Packing, detect_packing, packing_from_names
from modules.planning.load_request import LoadRequest
from tests.support.checkpoint_files import CONFIG, checkpoint, only_record, put, tensors

PICKLE = b"PK\x03\x04" + bytes(60)
Shapes = dict[str, tuple[int, ...]]


def gptq(inputs: int, outputs: int, bits: int, group: int, order: bool = True, layer: str = "m.0.q_proj") -> Shapes:
    """Return the tensor shapes of a layer as AutoGPTQ stores them."""
    groups = -(-inputs // group)
    shapes: Shapes = {
        f"{layer}.qweight": (inputs * bits // 32, outputs),
        f"{layer}.qzeros": (groups, outputs * bits // 32),
        f"{layer}.scales": (groups, outputs),
    }
    return shapes | ({f"{layer}.g_idx": (inputs,)} if order else {})


def awq(inputs: int, outputs: int, group: int) -> Shapes:
    """Return the tensor shapes of a 4-bit layer as AutoAWQ stores them."""
    return {
        "m.0.q_proj.qweight": (inputs, outputs // 8),
        "m.0.q_proj.qzeros": (inputs // group, outputs // 8),
        "m.0.q_proj.scales": (inputs // group, outputs),
    }


def packing_of(shapes: Shapes) -> Packing:
    return detect_packing(shapes, lambda name: shapes.get(name, ()))


def test_bits_and_group_size_are_derived_from_gptq_tensor_shapes(subtests: pytest.Subtests) -> None:
    for bits, order, (group, expected) in product((2, 3, 4, 8), (True, False), ((32, 32), (128, 128), (256, -1))):
        with subtests.test(bits=bits, order=order, group=group):
            assert packing_of(gptq(256, 96, bits, group, order)) == Packing("gptq", bits, expected)


def test_a_short_last_group_does_not_affect_the_group_size() -> None:
    assert packing_of(gptq(576, 192, 4, 128)) == Packing("gptq", 4, 128)


@pytest.mark.parametrize(("group", "expected"), [(64, 64), (256, -1)])
def test_bits_and_group_size_are_derived_from_awq_tensor_shapes(group: int, expected: int) -> None:
    assert packing_of(awq(256, 512, group)) == Packing("awq", 4, expected)


def test_exl2_tensors_determine_only_the_method() -> None:
    assert packing_of({"m.q_proj.q_weight": (9, 9), "m.q_proj.q_scale": (1, 9)}) == Packing("exl2")


def test_the_packing_is_that_of_most_layers() -> None:
    layers = gptq(256, 96, 4, 32, layer="a") | gptq(256, 96, 4, 32, layer="b") | gptq(32, 96, 4, 32, layer="c")
    assert packing_of(layers) == Packing("gptq", 4, 32)


CONTRADICTORY: list[Shapes] = [
    {"m.qweight": (0, 0), "m.scales": (0, 0)},
    {"m.qweight": (), "m.scales": (1,)},
    {"m.qweight": (7, 5), "m.scales": (3, 11), "m.qzeros": ()},
    {"m.qweight": (7, 11), "m.scales": (3, 11)},
    {"m.qweight": (7, 11), "m.scales": (3, 11), "m.g_idx": (0,)},
    {"m.qweight": ((1 << 63) - 1, 1), "m.scales": (1, (1 << 63) - 1), "m.g_idx": (1,)},
    {"m.q_weight": (1, 1)},
    {"m.weight": (4, 4)},
]


def test_contradictory_shapes_determine_neither_bits_nor_group_size(subtests: pytest.Subtests) -> None:
    for shapes in CONTRADICTORY:
        with subtests.test(shapes=shapes):
            assert (packing_of(shapes).bits, packing_of(shapes).group) == (0, 0)


NAMED = [
    ("llama-7b-4bit-128g", Packing("gptq", 4, 128)),
    ("llama-13b-4bit", Packing("gptq", 4)),
    ("gptq_model-3bit-32g.bin", Packing("gptq", 3, 32)),
    ("vicuna-4bit--1g.pt", Packing("gptq", 4, -1)),
    ("TheBloke_Llama-2-7B-GPTQ", Packing("gptq")),
    ("Llama-2-7B-AWQ", Packing("awq")),
    ("Mistral-7B-4.25bpw-exl2", Packing("exl2", 4.25)),
    ("exl2_6bpw", Packing("exl2", 6)),
    ("llama-7b", PLAIN),
    ("notgptqatall", PLAIN),
    ("x-14bit", PLAIN),
    ("4bits-of-fun", Packing("gptq", 4)),
    ("模型 [GPTQ] +$", Packing("gptq")),
]


def test_the_quantization_is_read_from_a_name(subtests: pytest.Subtests) -> None:
    for name, expected in NAMED:
        with subtests.test(name=name):
            assert packing_from_names(name) == expected


# -- in the catalog ---------------------------------------------------------------------------------------------------


def test_gptq_weights_without_json_get_their_load_options(tmp_path: Path) -> None:
    put(checkpoint(tmp_path / "plain name") / "model.safetensors", tensors(gptq(256, 96, 4, 128)))
    record = only_record(tmp_path)
    assert (record.format, record.quantization, record.parameters) == ("gptq", "GPTQ 4-bit 128g", 0)
    assert record.defaults == {"max_seq_len": 2048, "wbits": 4, "groupsize": 128}


def test_awq_weights_without_json_are_recognized(tmp_path: Path) -> None:
    put(checkpoint(tmp_path / "tiny") / "model.safetensors", tensors(awq(256, 512, 64)))
    assert (only_record(tmp_path).format, only_record(tmp_path).quantization) == ("awq", "AWQ 4-bit 64g")


def test_a_name_does_not_make_plain_weights_quantized(tmp_path: Path) -> None:
    checkpoint(tmp_path / "tiny-4bit-128g-GPTQ")
    assert only_record(tmp_path).format == "safetensors"


def test_json_overrides_tensor_shapes_which_supply_missing_values(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", quantize_config={"desc_act": True})
    put(folder / "model.safetensors", tensors(gptq(256, 96, 4, 64)))
    assert only_record(tmp_path).defaults == {"max_seq_len": 2048, "desc_act": True, "wbits": 4, "groupsize": 64}
    put(folder / "quantize_config.json", {"bits": 8, "group_size": 32})
    assert only_record(tmp_path).quantization == "GPTQ 8-bit 32g"
    put(folder / "config.json", CONFIG | {"quantization_config": {"quant_method": "fp8"}})
    assert only_record(tmp_path).format == "safetensors"


def test_later_shards_are_examined_too(tmp_path: Path) -> None:
    put(tmp_path / "tiny" / "config.json", CONFIG)
    put(tmp_path / "tiny" / "model-00001-of-00002.safetensors", tensors({"embed": (4, 4)}))
    put(tmp_path / "tiny" / "model-00002-of-00002.safetensors", tensors(gptq(256, 96, 4, 32)))
    assert only_record(tmp_path).quantization == "GPTQ 4-bit 32g"


@pytest.mark.parametrize(
    ("folder", "file", "expected", "defaults"),
    [
        ("llama-7b", "llama-7b-4bit-128g.pt", ("gptq", "GPTQ 4-bit 128g"), {"wbits": 4, "groupsize": 128}),
        ("llama-7b-3bit", "model.pt", ("gptq", "GPTQ 3-bit"), {"wbits": 3}),
        ("llama-7b-GPTQ", "pytorch_model.bin", ("gptq", "GPTQ"), {}),
        ("llama-7b-AWQ", "pytorch_model.bin", ("awq", "AWQ"), {}),
        ("llama-7b", "pytorch_model.bin", ("pytorch", "BF16"), {}),
    ],
)
def test_names_determine_the_quantization_if_the_files_do_not(
    tmp_path: Path, folder: str, file: str, expected: tuple[str, str], defaults: dict[str, Any]
) -> None:
    put(tmp_path / folder / "config.json", CONFIG)
    put(tmp_path / folder / file, PICKLE)
    record = only_record(tmp_path)
    assert (record.format, record.quantization) == expected
    assert record.defaults == {"max_seq_len": 2048} | defaults


def test_other_pt_files_are_not_weights(tmp_path: Path) -> None:
    put(tmp_path / "tiny" / "config.json", CONFIG)
    put(tmp_path / "tiny" / "state.pt", PICKLE)
    assert Catalog(tmp_path).models() == []


def test_a_group_size_that_is_no_choice_of_the_option_is_not_set(tmp_path: Path, make_app: Any) -> None:
    app: App = make_app()
    put(checkpoint(tmp_path / "models" / "x") / "model.safetensors", tensors(gptq(1024, 96, 4, 256)))
    assert app.record("x").quantization == "GPTQ 4-bit 256g"
    assert app.planner.plan(LoadRequest(app.record("x"), "AutoGPTQ")).settings["groupsize"].source == "default"
