"""Facts about a model folder in Hugging Face layout, read through the catalog."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from modules.catalog.record import ModelRecord
from tests.support.checkpoint_files import CONFIG, checkpoint, only_record, problem_message, put, safetensors


def test_a_folder_with_config_and_weights_is_one_model(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "org" / "tiny", tokenizer_config={"chat_template": "{{ x }}"})
    assert only_record(tmp_path) == ModelRecord(
        name="org/tiny",
        path=folder,
        format="safetensors",
        size=len(safetensors(4, 8)),
        architecture="llama",
        quantization="BF16",
        parameters=32,
        layers=2,
        context_length=2048,
        chat_template="{{ x }}",
        defaults={"max_seq_len": 2048},
    )


def test_a_folder_with_a_vision_tower_and_an_image_processor_reads_images(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", config=CONFIG | {"vision_config": {"patch_size": 14}})
    assert not only_record(tmp_path).images
    put(folder / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"})
    assert only_record(tmp_path).images
    put(folder / "config.json", CONFIG)
    assert not only_record(tmp_path).images


def test_pytorch_weights_are_used_if_there_are_no_safetensors(tmp_path: Path) -> None:
    put(tmp_path / "tiny" / "config.json", CONFIG)
    put(tmp_path / "tiny" / "pytorch_model.bin", b"PK\x03\x04....")
    put(tmp_path / "tiny" / "training_args.bin", b"PK\x03\x04")
    record = only_record(tmp_path)
    assert (record.format, record.size, record.problem) == ("pytorch", 8, None)
    put(tmp_path / "tiny" / "model.safetensors", safetensors(1))
    assert only_record(tmp_path).format == "safetensors"


QUANTIZED: list[tuple[dict[str, Any], str, str, dict[str, Any]]] = [
    (
        {"quantize_config": {"bits": 4, "group_size": 128, "desc_act": True}},
        "gptq",
        "GPTQ 4-bit 128g",
        {"wbits": 4, "groupsize": 128, "desc_act": True},
    ),
    (
        {"config": CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": 3, "group_size": -1}}},
        "gptq",
        "GPTQ 3-bit",
        {"wbits": 3, "groupsize": -1, "desc_act": False},
    ),
    ({"quant_config": {"w_bit": 4, "q_group_size": 64, "zero_point": True}}, "awq", "AWQ 4-bit 64g", {}),
    (
        {"config": CONFIG | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}},
        "awq",
        "AWQ 4-bit 128g",
        {},
    ),
    (
        {"config": CONFIG | {"quantization_config": {"quant_method": "exl2", "bits": 4.25}}},
        "exl2",
        "EXL2 4.25-bit",
        {},
    ),
    (
        {"config": CONFIG | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}},
        "safetensors",
        "BITSANDBYTES 4-bit",
        {},
    ),
    (
        {"config": CONFIG | {"quantization_config": {"quant_method": "fp8"}}},
        "safetensors",
        "FP8",
        {},
    ),
]


def test_the_quantization_is_read_from_the_files_of_a_folder(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (files, format, quantization, defaults) in enumerate(QUANTIZED):
        with subtests.test(files=files):
            folder = tmp_path / str(number)
            folder.mkdir()
            checkpoint(folder / "tiny", **files)
            record = only_record(folder)
            assert (record.format, record.quantization) == (format, quantization)
            assert record.defaults == {"max_seq_len": 2048} | defaults


CONFIGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"rope_theta": 10000.0}, {}),
    ({"rope_theta": 500000}, {"rope_freq_base": 500000.0}),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, {"rope_freq_base": 1e6}),
    ({"rope_scaling": {"type": "linear", "factor": 4.0}}, {"compress_pos_emb": 4.0}),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, {}),
    ({"text_config": {"max_position_embeddings": 64, "rope_theta": 7.0}}, {"rope_freq_base": 7.0}),
    ({"rope_theta": "nonsense", "rope_scaling": [1], "quantization_config": 5, "text_config": None}, {}),
]


def test_load_options_are_read_from_config_json(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (config, defaults) in enumerate(CONFIGS):
        with subtests.test(config=config):
            folder = tmp_path / str(number)
            folder.mkdir()
            checkpoint(folder / "tiny", config=CONFIG | config)
            assert only_record(folder).defaults == {"max_seq_len": 2048} | defaults


def test_the_layers_of_a_multimodal_model_are_those_of_its_language_model(tmp_path: Path) -> None:
    config = {"model_type": "llava", "text_config": {"model_type": "llama", "num_hidden_layers": 3}}
    checkpoint(tmp_path / "tiny", config=config)
    assert (only_record(tmp_path).architecture, only_record(tmp_path).layers) == ("llava", 3)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "usual"}], "usual"),
        ([{"name": "tool_use", "template": "tools"}, {"name": []}, 5], ""),
        ({"not": "a template"}, ""),
    ],
)
def test_the_default_of_several_templates_is_used(tmp_path: Path, template: Any, expected: str) -> None:
    checkpoint(tmp_path / "tiny", tokenizer_config={"chat_template": template})
    assert only_record(tmp_path).chat_template == expected


def test_a_template_in_its_own_file_overrides_the_config(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", tokenizer_config={"chat_template": "old"})
    put(folder / "chat_template.jinja", "{{ 新 }}")
    assert only_record(tmp_path).chat_template == "{{ 新 }}"


def test_the_other_templates_are_kept_by_name(tmp_path: Path) -> None:
    templates = [{"name": "rag", "template": "old"}, {"name": "tool_use", "template": "tools"}]
    folder = checkpoint(tmp_path / "tiny", tokenizer_config={"chat_template": templates})
    put(folder / "additional_chat_templates" / "rag.jinja", "new")
    put(folder / "additional_chat_templates" / "notes.txt", "not a template")
    record = only_record(tmp_path)
    assert (record.chat_template, record.named_templates) == ("", {"rag": "new", "tool_use": "tools"})
    put(folder / "chat_template.jinja", "{{ x }}")
    assert only_record(tmp_path).chat_template == "{{ x }}"


@pytest.mark.parametrize("file", ["chat_template", "processor_config"])
def test_the_template_of_a_model_that_sees_is_used_if_its_tokenizer_has_none(tmp_path: Path, file: str) -> None:
    checkpoint(tmp_path / "tiny", tokenizer_config={}, **{file: {"chat_template": "processor's"}})
    assert only_record(tmp_path).chat_template == "processor's"
    put(tmp_path / "tiny" / "tokenizer_config.json", {"chat_template": "tokenizer's"})
    assert only_record(tmp_path).chat_template == "tokenizer's"


def test_a_damaged_file_of_a_processor_does_not_keep_the_model_from_loading(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny")
    put(folder / "chat_template.json", "{")
    assert (only_record(tmp_path).problem, only_record(tmp_path).chat_template) == (None, "")


DAMAGED = [
    ("model.safetensors", safetensors(4, 8)[:-1], "model.safetensors: the file is truncated"),
    ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    ("model.safetensors", b"", "empty file"),
    ("model.safetensors", struct.pack("<Q", 1 << 60) + b"{}", "not a safetensors file"),
    ("model.safetensors", struct.pack("<Q", 99) + b"{}", "ends within its header"),
    ("model.safetensors", struct.pack("<Q", 9) + b'{"w": 5} ', "lacks a valid shape"),
    ("model.safetensors", struct.pack("<Q", 3) + b"{,}", "the JSON is invalid"),
    ("config.json", "{", "config.json: the JSON is invalid or breaks off at line 1, column 2"),
    ("config.json", "[" * 100_000, "config.json: this is not a JSON file"),
    ("config.json", "[1]", "config.json: this is not a JSON file"),
    ("tokenizer_config.json", b"\xff", "tokenizer_config.json"),
]


def test_the_error_for_a_damaged_file_names_it(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (file, content, message) in enumerate(DAMAGED):
        with subtests.test(file=file, message=message):
            folder = tmp_path / str(number)
            folder.mkdir()
            put(checkpoint(folder / "tiny") / file, content)
            assert message in problem_message(only_record(folder))


def test_a_web_page_in_place_of_pytorch_weights_is_recognized(tmp_path: Path) -> None:
    put(tmp_path / "tiny" / "config.json", CONFIG)
    put(tmp_path / "tiny" / "pytorch_model.bin", "<html>Too many requests</html>")
    assert "not a PyTorch file but a web page" in problem_message(only_record(tmp_path))


def test_missing_shards_are_found_by_the_index_or_by_the_names(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    put(folder / "config.json", CONFIG)
    put(folder / "model-00001-of-00002.safetensors", safetensors(2))
    assert "1 of 2 parts are missing: model-00002-of-00002.safetensors" in problem_message(only_record(tmp_path))
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "other.safetensors"}}
    put(folder / "model.safetensors.index.json", index)
    assert "1 of 2 parts are missing: other.safetensors" in problem_message(only_record(tmp_path))
    put(folder / "other.safetensors", safetensors(3))
    put(folder / "stray.safetensors", safetensors(1000))
    record = only_record(tmp_path)
    assert (record.problem, record.parameters) == (None, 5)
