"""AutoAWQ's options become calls of autoawq: none is ignored silently, and unsupported models are refused early."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from modules.engines.autoawq.arguments import CONFIG, KERNEL, LOAD, Plan, arguments
from modules.engines.autoawq.notes import notes
from modules.engines.hf.arguments import TOKENIZER, Environment
from modules.engines.legacy.arguments import CONFIG_JSON, FAST_TOKENIZER
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.options.option import Value
from tests.engines.hf.test_arguments import LLAMA, changed

GIB = 1 << 30
KEYS = LOADERS["AutoAWQ"].options
DEFAULTS = {key: OPTIONS[key].default for key in KEYS}

NO_GPU = Environment(memory=64 * GIB)
ONE_GPU = Environment((24 * GIB,), 64 * GIB, frozenset({"triton"}))
KERNELS = Environment((24 * GIB, 16 * GIB), 64 * GIB, frozenset({"triton", "awq_ext", "flash_attn"}))
MACHINES = {"cpu": NO_GPU, "gpu": ONE_GPU, "gpus with kernels": KERNELS}

AWQ = LLAMA | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path)


def write_model(path: Path, **quantization: Any) -> Path:
    """Write a model folder with these changes of the quantization_config in config.json."""
    config = AWQ | {"quantization_config": AWQ["quantization_config"] | quantization}  # type: ignore[operator]
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (path / "model.safetensors").touch()
    return path


def calls(path: Path, machine: Environment = NO_GPU, **options: Value) -> dict[str, Any]:
    return arguments(path, DEFAULTS | options, machine)


def noted(path: Path, machine: Environment = NO_GPU, **options: Value) -> dict[str, str]:
    return {note.option: note.text["en"] for note in notes(path, DEFAULTS | options, machine)}


# -- files of Transformers 5 -------------------------------------------------------------------------------------------


def test_keys_of_transformers_5_are_read_under_their_earlier_names(folder: Path) -> None:
    assert CONFIG_JSON not in calls(folder)
    config = {key: value for key, value in AWQ.items() if key != "rope_theta"}
    rope = {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16", "rope_parameters": rope}))
    scaling = {"rope_type": "linear", "factor": 2.0}
    changes = {"torch_dtype": "float16", "rope_theta": 5e5, "rope_scaling": scaling}
    assert calls(folder)[CONFIG_JSON] == changes


def test_a_tokenizer_of_transformers_5_is_its_tokenizer_json(folder: Path) -> None:
    config = {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "extra_special_tokens": ["<a>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    words = Plan(folder, DEFAULTS, NO_GPU).incompatibility
    assert words is not None and "tokenizer_class=TokenizersBackend" in words["zh"]
    (folder / "tokenizer.json").touch()
    assert Plan(folder, DEFAULTS, NO_GPU).incompatibility is None
    assert TOKENIZER not in calls(folder)
    call = calls(folder)[FAST_TOKENIZER]
    assert (call["additional_special_tokens"], call["extra_special_tokens"]) == (["<a>"], {})
    assert "No effect" in noted(folder, no_use_fast=True)["no_use_fast"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"auto_map": {"AutoTokenizer": ["own.Own"]}}))
    assert FAST_TOKENIZER not in calls(folder), "a class of its own needs remote code"


def test_layers_that_scale_rope_are_not_fused(folder: Path) -> None:
    assert calls(folder, KERNELS)[LOAD]["fuse_layers"]
    scaling = {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    (folder / "config.json").write_text(json.dumps(AWQ | scaling))
    assert not calls(folder, KERNELS)[LOAD]["fuse_layers"]
    assert "RoPE" in noted(folder, KERNELS)["no_inject_fused_attention"]


# -- options -----------------------------------------------------------------------------------------------------------


def test_every_option_changes_the_calls_or_has_a_note(folder: Path, subtests: pytest.Subtests) -> None:
    for (name, machine), key in product(MACHINES.items(), KEYS):
        with subtests.test(machine=name, option=key):
            options = {key: changed(OPTIONS[key])}
            changes = calls(folder, machine, **options) != calls(folder, machine)
            assert changes or key in noted(folder, machine, **options)


def test_every_note_names_an_option_of_this_loader_in_both_languages(folder: Path, subtests: pytest.Subtests) -> None:
    for key in KEYS:
        with subtests.test(option=key):
            for machine in MACHINES.values():
                for note in notes(folder, DEFAULTS | {key: changed(OPTIONS[key])}, machine):
                    assert note.option in KEYS
                    assert set(note.text) == {"zh", "en"}
                    assert all(note.text.values())


def test_default_options_have_no_notes_on_a_cpu(folder: Path) -> None:
    assert not noted(folder)


def test_the_slow_tokenizer_can_be_chosen_if_there_is_one(folder: Path) -> None:
    assert calls(folder)[TOKENIZER]["use_fast"]
    assert not calls(folder, no_use_fast=True)[TOKENIZER]["use_fast"]
    assert "no_use_fast" not in noted(folder, no_use_fast=True)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert "fast tokenizer only" in noted(folder, no_use_fast=True)["no_use_fast"]


# -- devices -----------------------------------------------------------------------------------------------------------


def test_without_a_gpu_pytorchs_kernel_computes_in_bfloat16(folder: Path) -> None:
    cpu_calls = calls(folder)
    assert cpu_calls[KERNEL] == {"dtype": "bfloat16"}
    assert cpu_calls[LOAD]["device_map"] == {"": "cpu"}
    assert KERNEL not in calls(folder, ONE_GPU)


def test_memory_options_have_the_effect_they_have_under_transformers(folder: Path) -> None:
    assert calls(folder, ONE_GPU)[LOAD]["device_map"] == {"": 0}
    limited = calls(folder, KERNELS, gpu_memory="4 6", cpu_memory="8")[LOAD]
    assert limited["device_map"] == "auto"
    assert limited["max_memory"] == {"0": 4 * GIB, "1": 6 * GIB, "cpu": 8 * GIB}
    assert calls(folder, cpu_memory="1")[LOAD]["max_memory"] == {"cpu": GIB}
    spread = calls(folder, KERNELS, auto_devices=True)[LOAD]
    assert spread["device_map"] == "auto" and "max_memory" not in spread


# -- fused layers and the context --------------------------------------------------------------------------------------


@pytest.mark.works("gpu", loader="AutoAWQ")
def test_layers_are_fused_where_possible(folder: Path) -> None:
    assert calls(folder, KERNELS)[LOAD]["fuse_layers"]
    assert "one request at a time" in noted(folder, KERNELS)["no_inject_fused_attention"]
    for machine, options in (
        (NO_GPU, {}),
        (ONE_GPU, {}),
        (KERNELS, {"gpu_memory": "4"}),
        (KERNELS, {"auto_devices": True}),
    ):
        assert not calls(folder, machine, **options)[LOAD]["fuse_layers"]
    assert (
        "awq_ext, flash_attn: not installed, or not built for this PyTorch"
        in noted(folder, ONE_GPU)["no_inject_fused_attention"]
    )
    assert "whole model on one GPU" in noted(folder, KERNELS, gpu_memory="4")["no_inject_fused_attention"]
    assert "no_inject_fused_attention" not in noted(folder, KERNELS, no_inject_fused_attention=True)


def test_the_note_on_kernels_has_the_package_name_of_triton(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Environment((24 * GIB,), 64 * GIB)
    for platform, line in (("linux", "pip install triton"), ("win32", "pip install triton-windows")):
        monkeypatch.setattr("sys.platform", platform)
        assert noted(folder, bare)["no_inject_fused_attention"].endswith(line)
    assert "Very slow" not in noted(folder, ONE_GPU)["no_inject_fused_attention"]


def test_the_context_is_max_seq_len_but_at_most_the_models_own(folder: Path) -> None:
    def context(max_seq_len: int) -> int:
        return Plan(folder, DEFAULTS | {"max_seq_len": max_seq_len}, NO_GPU).context

    assert [context(max_seq_len) for max_seq_len in (0, 1000, 5000)] == [4096, 1000, 4096]
    assert "4096" in noted(folder, max_seq_len=5000)["max_seq_len"]
    assert calls(folder, max_seq_len=1000)[LOAD]["max_seq_len"] == 1000
    assert calls(folder, KERNELS, max_seq_len=1000)[LOAD]["max_seq_len"] == 1001, "see autoawq.arguments"


# -- quantization and files --------------------------------------------------------------------------------------------


def test_the_weight_format_is_read_from_either_file_in_any_case(tmp_path: Path) -> None:
    assert calls(write_model(tmp_path, version="GEMM"))[CONFIG]["version"] == "gemm"
    assert calls(write_model(tmp_path, version=None, zero_point=None))[CONFIG]["version"] == "gemm"
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "quant_config.json").write_text(
        '{"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}'
    )
    config = calls(tmp_path)[CONFIG]
    assert (config["w_bit"], config["q_group_size"], config["zero_point"], config["version"]) == (4, 64, True, "gemm")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
        (["model.safetensors.index.json", "model-00001-of-00002.safetensors"], "model.safetensors.index.json"),
        (["awq_model_w4_g128.pt", "adapter_model.safetensors"], "awq_model_w4_g128.pt"),
        (["pytorch_model.bin"], "pytorch_model.bin"),
        ([], ""),
    ],
)
def test_the_weight_file_is_found_by_any_name(tmp_path: Path, files: list[str], expected: str) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for name in files:
        (tmp_path / name).touch()
    args = calls(tmp_path)[LOAD]
    assert args["quant_filename"] == expected
    assert args["safetensors"] == (".safetensors" in expected)


@pytest.mark.parametrize(
    ("quantization", "machine", "word"),
    [
        ({"version": "gemv"}, NO_GPU, "needs a GPU"),
        ({"version": "gemv"}, ONE_GPU, "awq_ext"),
        ({"version": "gemv_fast"}, ONE_GPU, "awq_v2_ext"),
        ({"version": "marlin"}, KERNELS, "marlin_cuda"),
        ({"version": "llm-awq"}, KERNELS, "does not support"),
        ({"bits": 8}, KERNELS, "8 bits"),
    ],
)
def test_an_incompatible_model_is_refused_before_loading(
    tmp_path: Path, quantization: dict[str, Any], machine: Environment, word: str
) -> None:
    path = write_model(tmp_path, **quantization)
    reason = Plan(path, DEFAULTS, machine).incompatibility
    assert reason is not None and word in reason["en"]
    assert reason in [note.text for note in notes(path, DEFAULTS, machine)]


def test_a_compatible_model_is_not_refused(tmp_path: Path) -> None:
    assert all(Plan(write_model(tmp_path), DEFAULTS, machine).incompatibility is None for machine in MACHINES.values())
    assert Plan(write_model(tmp_path, version="gemv"), DEFAULTS, KERNELS).incompatibility is None
