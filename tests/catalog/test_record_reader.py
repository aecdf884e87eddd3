"""A model is loadable, incomplete, damaged or unsupported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.catalog.catalog import Catalog
from tests.support.checkpoint_files import CONFIG, checkpoint, only_record, problem_message, put, safetensors
from tests.support.gguf_files import MODEL, gguf

PICKLE = b"PK\x03\x04" + bytes(60)
OLD_GGML = b"tjgg" + bytes(60)


def test_the_state_of_a_loadable_model_is_empty(tmp_path: Path) -> None:
    put(tmp_path / "tiny.gguf", gguf())
    assert (only_record(tmp_path).state, only_record(tmp_path).problem) == ("", None)


# -- incomplete and damaged -------------------------------------------------------------------------------------------


INVALID_FILES = [
    (gguf()[:-300], "incomplete"),
    (gguf()[:300], "incomplete"),
    (b"", "incomplete"),
    (bytes(5000), "incomplete"),
    (b"version https://git-lfs.github.com/spec/v1\n", "incomplete"),
    (b"<html>", "damaged"),
    (b"GGUF followed by text", "damaged"),
    (gguf(MODEL | {"general.alignment": 5}), "damaged"),
    (gguf(version=9), "unsupported"),
    (gguf(version=1), "unsupported"),
    (OLD_GGML, "unsupported"),
]


def test_an_invalid_file_has_a_state_and_a_reason(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (content, state) in enumerate(INVALID_FILES):
        with subtests.test(content=content[:60], state=state):
            folder = tmp_path / str(number)
            folder.mkdir()
            put(folder / "tiny.gguf", content)
            assert only_record(folder).state == state
            assert problem_message(only_record(folder))


def test_a_split_model_without_one_part_is_incomplete(tmp_path: Path) -> None:
    put(tmp_path / "big-00001-of-00002.gguf", gguf())
    assert only_record(tmp_path).state == "incomplete"


def test_weights_without_their_config_are_incomplete(tmp_path: Path) -> None:
    put(tmp_path / "tiny" / "model.safetensors", safetensors(1))
    record = only_record(tmp_path)
    assert (record.name, record.format, record.state) == ("tiny", "safetensors", "incomplete")
    assert "config.json is missing" in problem_message(record)


@pytest.mark.parametrize("config", [True, False])
def test_an_index_without_weights_is_incomplete(tmp_path: Path, config: bool) -> None:
    if config:
        put(tmp_path / "tiny" / "config.json", CONFIG)
    put(
        tmp_path / "tiny" / "model.safetensors.index.json", {"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}
    )
    put(tmp_path / "tiny" / "x.safetensors.part", safetensors(1))
    record = only_record(tmp_path)
    assert (record.name, record.state, record.size) == ("tiny", "incomplete", 0)
    assert ("2 of 2 parts are missing: x.safetensors, y.safetensors" in problem_message(record)) is config


# -- unsupported ----------------------------------------------------------------------------------------------------


NOT_LANGUAGE_MODELS = [
    ({"general.type": "mmproj"}, "vision or audio part"),
    ({"general.architecture": "clip"}, "vision or audio part"),
    ({"general.type": "adapter"}, "Move it into the folder loras/"),
    ({"general.type": "imatrix"}, "importance matrix"),
    ({"general.architecture": "controlvector"}, "control vector"),
    ({"general.architecture": "flux"}, "images or videos"),
    ({"general.architecture": "qwen_image"}, "images or videos"),
]


def test_a_gguf_that_is_not_a_language_model_is_unsupported_with_a_reason(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for number, (metadata, message) in enumerate(NOT_LANGUAGE_MODELS):
        with subtests.test(metadata=metadata):
            folder = tmp_path / str(number)
            folder.mkdir()
            put(folder / "x.gguf", gguf(MODEL | metadata))
            assert only_record(folder).state == "unsupported"
            problem = problem_message(only_record(folder))
            assert problem.startswith("x.gguf: ") and message in problem


def test_a_gguf_of_the_type_model_is_supported(tmp_path: Path) -> None:
    put(tmp_path / "x.gguf", gguf(MODEL | {"general.type": "model"}))
    assert only_record(tmp_path).problem is None


@pytest.mark.parametrize(
    ("config", "format", "quantization", "message"),
    [
        ({"quantization_config": {"quant_method": "exl3", "bits": 3.0}}, "exl3", "EXL3 3-bit", "as EXL2 or GGUF"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "mlx", "MLX 4-bit 64g", "Apple"),
        # as current versions of mlx-lm write it
        ({"quantization": {"bits": 4}, "quantization_config": {"bits": 4}}, "mlx", "MLX 4-bit", "Apple"),
        ({"_class_name": "UNet2DConditionModel"}, "diffusers", "", "images"),
    ],
)
def test_a_folder_for_other_programs_is_unsupported_with_a_reason(
    tmp_path: Path, config: dict[str, Any], format: str, quantization: str, message: str
) -> None:
    checkpoint(tmp_path / "x", config=CONFIG | config)
    record = only_record(tmp_path)
    assert (record.format, record.state) == (format, "unsupported")
    assert quantization in record.quantization
    assert message in problem_message(record)


def test_a_diffusers_folder_is_one_entry(tmp_path: Path) -> None:
    put(tmp_path / "sd" / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    checkpoint(tmp_path / "sd" / "text_encoder")
    checkpoint(tmp_path / "sd" / "unet", config={"_class_name": "UNet2DConditionModel"})
    record = only_record(tmp_path)
    assert (record.name, record.format, record.state) == ("sd", "diffusers", "unsupported")


def test_old_ggml_weights_are_unsupported_and_name_a_remedy(tmp_path: Path) -> None:
    put(tmp_path / "ggml-model-q4_0.bin", OLD_GGML)
    put(tmp_path / "bare" / "x.ggmlv3.q4_0.bin", OLD_GGML)
    put(tmp_path / "folder" / "config.json", {"model_type": "llama"})
    put(tmp_path / "folder" / "x.bin", OLD_GGML)
    for record in Catalog(tmp_path).models():
        assert (record.format, record.state) == ("ggml", "unsupported")
        assert "get this model as GGUF" in problem_message(record)
    assert len(Catalog(tmp_path).models()) == 3


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("x.safetensors", safetensors(1), "safetensors"),
        ("x.bin", PICKLE, "pytorch"),
        ("x-4bit-128g.pt", PICKLE, "pytorch"),
    ],
)
def test_loose_weights_are_unsupported_and_name_a_remedy(
    tmp_path: Path, name: str, content: bytes, format: str
) -> None:
    put(tmp_path / name, content)
    record = only_record(tmp_path)
    assert (record.name, record.format, record.state) == (name, format, "unsupported")
    assert "together with config.json" in problem_message(record)


def test_loose_parts_of_one_set_are_one_entry(tmp_path: Path) -> None:
    for number in (1, 2):
        put(tmp_path / f"model-0000{number}-of-00002.safetensors", safetensors(number))
    assert only_record(tmp_path).name == "model-00001-of-00002.safetensors"
