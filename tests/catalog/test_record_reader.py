"""A model is loadable, incomplete, damaged or unsupported."""

from __future__ import annotations

import json
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
    ({"general.architecture": "t5encoder"}, "does not generate text (t5encoder)"),
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


def test_an_embedding_model_is_one_entry(tmp_path: Path) -> None:
    put(checkpoint(tmp_path / "embed") / "modules.json", "[]")
    checkpoint(tmp_path / "embed" / "2_Dense")
    record = only_record(tmp_path)
    assert (record.name, record.state, record.task) == ("embed", "", "embed")


def test_a_quantized_embedding_model_is_unsupported(tmp_path: Path) -> None:
    put(
        checkpoint(tmp_path / "embed", config=CONFIG | {"quantization_config": {"quant_method": "gptq"}})
        / "modules.json",
        "[]",
    )
    assert "does not generate text" in problem_message(only_record(tmp_path))


def test_a_folder_whose_classifier_has_one_label_ranks(tmp_path: Path) -> None:
    config = CONFIG | {"architectures": ["XLMRobertaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    checkpoint(tmp_path / "reranker", config=config)
    record = only_record(tmp_path)
    assert (record.state, record.task) == ("", "rank")


@pytest.mark.parametrize(
    "architecture",
    ["BertForMaskedLM", "XLMRobertaModel", "Qwen3ForSequenceClassification", "WhisperForConditionalGeneration"],
)
def test_a_model_for_another_task_is_named(tmp_path: Path, architecture: str) -> None:
    checkpoint(tmp_path / "x", config=CONFIG | {"architectures": [architecture]})
    assert f"does not generate text ({architecture})" in problem_message(only_record(tmp_path))


def test_llava_in_its_original_form_is_named_in_the_list(tmp_path: Path) -> None:
    """Transformers would call it no text generation model, or too new, only after loading it was tried."""
    original = CONFIG | {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}
    folder = checkpoint(tmp_path / "x", config=original)
    message = problem_message(only_record(tmp_path))
    assert "LlavaLlamaForCausalLM" in message and "version for Transformers" in message
    for supported in (
        original | {"architectures": ["LlavaForConditionalGeneration"]},
        original | {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}},
    ):
        (folder / "config.json").write_text(json.dumps(supported))
        assert only_record(tmp_path).problem is None


@pytest.mark.parametrize(
    "architectures",
    [None, [], ["LlamaForCausalLM"], ["T5ForConditionalGeneration"], ["GPT2LMHeadModel"], ["MistralModel"], [7]],
)
def test_a_model_that_generates_text_is_supported(tmp_path: Path, architectures: object) -> None:
    checkpoint(tmp_path / "x", config=CONFIG | {"architectures": architectures})
    assert only_record(tmp_path).problem is None


def quantized_by(method: str, **config: object) -> dict[str, Any]:
    return CONFIG | {"quantization_config": {"quant_method": method}} | config


def test_a_quantization_whose_package_is_missing_is_named_in_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.loaders.quantization_methods.is_installed", lambda package: False)
    checkpoint(tmp_path / "x", config=quantized_by("compressed-tensors"))
    record = only_record(tmp_path)
    assert (record.format, record.state) == ("safetensors", "unsupported")
    assert "not installed: compressed_tensors. To install: pip install" in problem_message(record)
    monkeypatch.setattr("modules.loaders.quantization_methods.is_installed", lambda package: True)
    assert only_record(tmp_path).problem is None


def test_a_quantization_that_nothing_reads_is_named(tmp_path: Path) -> None:
    checkpoint(tmp_path / "x", config=quantized_by("nvfp4"))
    assert "does not read its quantization ('nvfp4')" in problem_message(only_record(tmp_path))
    checkpoint(tmp_path / "x", config=quantized_by("nvfp4", auto_map={"AutoModel": "code.Model"}))
    assert only_record(tmp_path).problem is None


# -- where the weights are --------------------------------------------------------------------------------------------

SHARD_NAMES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def folder_with(folder: Path, *weights: str, **files: dict[str, Any]) -> Path:
    checkpoint(folder, **files)
    (folder / "model.safetensors").unlink()
    for number, name in enumerate(weights, 1):
        put(folder / name, safetensors(4, number))
    return folder


@pytest.mark.parametrize(
    "weights",
    [
        ("smollm2-merged.safetensors",),
        ("model.fp16.safetensors",),
        SHARD_NAMES,
        (*SHARD_NAMES, "consolidated.safetensors"),
    ],
)
def test_weights_without_an_index_or_a_usual_name_are_one_model(tmp_path: Path, weights: tuple[str, ...]) -> None:
    folder_with(tmp_path / "x", *weights)
    record = only_record(tmp_path)
    assert (record.name, record.format, record.problem) == ("x", "safetensors", None)
    assert {path.name for path in record.files} == set(weights) - {"consolidated.safetensors"}


def test_an_index_leads_to_weights_in_a_subfolder(tmp_path: Path) -> None:
    parts = [f"weights/{name}" for name in SHARD_NAMES]
    index = {"weight_map": {"a": parts[0], "b": parts[1]}}
    put(folder_with(tmp_path / "x", *parts) / "model.safetensors.index.json", index)
    record = only_record(tmp_path)
    assert (record.name, record.problem, record.size) == ("x", None, sum(map(file_size, record.files)))
    assert len(record.files) == 2
    catalog = Catalog(tmp_path)
    assert catalog.find_exact("x") == record and catalog.find_exact("x/weights") is None
    (tmp_path / "x" / parts[1]).unlink()
    assert f"1 of 2 parts are missing: {SHARD_NAMES[1]}" in problem_message(only_record(tmp_path))


def file_size(path: Path) -> int:
    return path.stat().st_size


def test_a_model_in_a_subfolder_of_another_is_a_model(tmp_path: Path) -> None:
    checkpoint(checkpoint(tmp_path / "x") / "older")
    assert [record.name for record in Catalog(tmp_path).models()] == ["x", "x/older"]


def test_several_whole_models_in_one_folder_are_named(tmp_path: Path) -> None:
    folder_with(tmp_path / "x", "new.safetensors", "old.safetensors")
    assert "several models in it: new, old. Move all but one" in problem_message(only_record(tmp_path))


@pytest.mark.parametrize(
    ("name", "format", "words"),
    [
        ("consolidated.safetensors", "original", "original weights"),
        ("consolidated.00.pth", "original", "original weights"),
        ("tf_model.h5", "tensorflow", "for TensorFlow"),
        ("flax_model.msgpack", "flax", "for Flax"),
        ("model.onnx", "onnx", "for ONNX"),
    ],
)
@pytest.mark.parametrize("config", ["config.json", "params.json"])
def test_weights_for_other_programs_are_named(tmp_path: Path, name: str, format: str, words: str, config: str) -> None:
    put(tmp_path / "x" / config, CONFIG)
    put(tmp_path / "x" / name, safetensors(4, 4))
    record = only_record(tmp_path)
    assert (record.name, record.format, record.state) == ("x", format, "unsupported")
    assert words in problem_message(record)


def test_original_weights_beside_or_below_a_model_are_not_listed(tmp_path: Path) -> None:
    put(checkpoint(tmp_path / "x") / "consolidated.safetensors", safetensors(4, 4))
    put(tmp_path / "x" / "original" / "consolidated.00.pth", PICKLE)
    assert only_record(tmp_path).name == "x"


def test_a_model_with_the_adapter_merged_into_it_is_listed(tmp_path: Path) -> None:
    put(checkpoint(tmp_path / "x") / "adapter_config.json", {"peft_type": "LORA"})
    put(tmp_path / "x" / "adapter_model.safetensors", safetensors(4, 4))
    record = only_record(tmp_path)
    assert record.problem is None and [path.name for path in record.files] == ["model.safetensors"]


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
