"""AutoGPTQ's options become calls of auto-gptq: none is ignored silently, and notes name what is impossible."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from modules.core.paths import ROOT
from modules.engines.autogptq.arguments import CUDA, EXLLAMA, EXLLAMAV2, KERNEL, LOAD, arguments
from modules.engines.autogptq.notes import notes
from modules.engines.hf.arguments import TOKENIZER, Environment
from modules.engines.legacy.arguments import CONFIG_JSON
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.options.option import Value
from tests.engines.hf.test_arguments import GIB, LLAMA, NO_GPU, changed, model

KEYS = LOADERS["AutoGPTQ"].options
DEFAULTS = {key: OPTIONS[key].default for key in KEYS}
KERNELS = frozenset({EXLLAMA, EXLLAMAV2, CUDA})
GPU = Environment(gpus=(24 * GIB,), memory=64 * GIB, packages=KERNELS | {"triton"})
WHEEL = Environment(gpus=(24 * GIB,), memory=64 * GIB, packages=frozenset({"triton"}))
"""With auto-gptq's wheel from PyPI, whose kernels do not match a current PyTorch."""
BARE = Environment(gpus=(24 * GIB,), memory=64 * GIB)
MACHINES = {
    "cpu": NO_GPU,
    "gpu": GPU,
    "gpus": Environment(gpus=(24 * GIB, 16 * GIB), memory=64 * GIB, packages=KERNELS),
    "wheel": WHEEL,
    "bare": BARE,
}
STORED = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}
ACT_ORDER = LLAMA | {"quantization_config": STORED | {"desc_act": True}}
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA | {"quantization_config": STORED},
    "act-order": ACT_ORDER,
    "grouped": LLAMA | {"num_key_value_heads": 8, "quantization_config": STORED},
    "8 bits": LLAMA | {"quantization_config": STORED | {"bits": 8}},
    "3 bits": LLAMA | {"quantization_config": STORED | {"bits": 3}},
    "unstated": LLAMA,
    "opt": {"model_type": "opt", "quantization_config": STORED},
}
FILE = "model.safetensors"


@pytest.fixture
def unstated(tmp_path: Path) -> Path:
    return packed(tmp_path, LLAMA)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return packed(tmp_path, MODELS["llama"])


def packed(folder: Path, config: dict[str, Any], *files: str) -> Path:
    """Write a config.json and weight files into `folder`, which is made if it is missing."""
    model(folder, **config)
    for file in files or (FILE,):
        (folder / file).write_bytes(b"weights")
    return folder


def call(path: Path, machine: Environment = NO_GPU, **options: Value) -> dict[str, Any]:
    args: dict[str, Any] = arguments(path, DEFAULTS | options, machine)[LOAD]
    return args


def noted(path: Path, machine: Environment = NO_GPU, **options: Value) -> dict[str, str]:
    return {note.option: note.text["en"] for note in notes(path, DEFAULTS | options, machine)}


def test_every_option_changes_the_calls_or_has_a_note(tmp_path: Path, subtests: pytest.Subtests) -> None:
    folders = {kind: packed(tmp_path / kind, config) for kind, config in MODELS.items()}
    fast = {kind: packed(tmp_path / f"{kind}, fast tokenizer", config) for kind, config in MODELS.items()}
    for folder in fast.values():
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    for kind, (machine_name, machine) in product(MODELS, MACHINES.items()):
        before = {path: _calls_and_notes(path, DEFAULTS, machine) for path in (folders[kind], fast[kind])}
        for key in KEYS:
            with subtests.test(model=kind, machine=machine_name, option=key):
                path = (fast if key == "no_use_fast" else folders)[kind]
                calls, texts = _calls_and_notes(path, DEFAULTS | {key: changed(OPTIONS[key])}, machine)
                calls_before, texts_before = before[path]
                has_note = key in texts and texts[key] != texts_before.get(key)
                assert calls != calls_before or has_note or _is_set_by_the_model(key, kind)
                for option, text in texts.items():
                    assert option in KEYS and set(text) == {"zh", "en"}


def _calls_and_notes(
    path: Path, options: dict[str, Value], machine: Environment
) -> tuple[dict[str, Any], dict[str, Any]]:
    texts = {note.option: note.text for note in notes(path, options, machine)}
    return arguments(path, options, machine), texts


def _is_set_by_the_model(key: str, kind: str) -> bool:
    return key == "desc_act" and kind == "act-order"


@pytest.mark.parametrize("machine", ["cpu", "gpu", "gpus"])
def test_default_options_have_no_notes_unless_attention_cannot_be_fused(tmp_path: Path, machine: str) -> None:
    environment = MACHINES[machine]
    assert not noted(packed(tmp_path, MODELS["llama"]), environment)
    assert set(noted(packed(tmp_path, MODELS["grouped"]), environment)) == {"no_inject_fused_attention"}
    assert "Llama" in noted(packed(tmp_path, MODELS["opt"]), environment)["no_inject_fused_attention"]


@pytest.mark.works("gpu", loader="AutoGPTQ")
def test_on_a_gpu_the_options_are_passed_to_the_package(llama: Path) -> None:
    args = call(llama, GPU)
    assert args["device_map"] == {"": 0}
    assert args["torch_dtype"] == "float16"
    assert args["use_cuda_fp16"] and args["inject_fused_attention"]
    assert (args["use_triton"], args["inject_fused_mlp"]) == (False, False)
    assert (args["disable_exllama"], args["disable_exllamav2"]) == (True, False), "ExLlamaV2 takes precedence"
    assert KERNEL not in arguments(llama, DEFAULTS, GPU)
    assert not call(llama, GPU, disable_exllamav2=True)["disable_exllama"]
    assert call(llama, GPU, disable_exllamav2=True, disable_exllama=True)["disable_exllama"]
    assert not call(llama, GPU, no_use_cuda_fp16=True)["use_cuda_fp16"]
    assert not call(llama, GPU, no_inject_fused_attention=True)["inject_fused_attention"]
    triton = call(llama, GPU, triton=True)
    assert triton["use_triton"] and triton["inject_fused_mlp"]
    assert not call(llama, GPU, triton=True, no_inject_fused_mlp=True)["inject_fused_mlp"]
    spread = call(llama, GPU, gpu_memory="8GiB", cpu_memory="16GiB")
    assert (spread["device_map"], spread["max_memory"]) == ("auto", {"0": 8 * GIB, "cpu": 16 * GIB})
    assert call(llama, GPU, auto_devices=True)["max_memory"] == {"0": int(24 * GIB * 0.9), "cpu": 64 * GIB}
    assert call(llama, GPU, cpu=True)["device_map"] == {"": "cpu"}


def test_a_model_not_entirely_on_gpus_uses_no_exllama_kernels(llama: Path) -> None:
    (llama / FILE).write_bytes(b"0" * 2000)
    short = call(llama, GPU, gpu_memory="0.000001")
    assert short["disable_exllama"] and short["disable_exllamav2"]
    assert "part" in noted(llama, GPU, gpu_memory="0.000001", disable_exllamav2=True)["disable_exllamav2"]


def test_notes_take_into_account_kernels_that_do_not_match_pytorch(llama: Path, tmp_path: Path) -> None:
    args = call(llama, WHEEL)
    assert args["disable_exllama"] and args["disable_exllamav2"]
    assert "Turn this on" in noted(llama, WHEEL)["triton"] and "unpacked" in noted(llama, WHEEL)["triton"]
    assert "triton" not in noted(llama, WHEEL, triton=True)
    note = noted(llama, WHEEL, wbits=3)["triton"]
    assert "unpacked" in note and "turn this on" not in note.lower()
    texts = noted(llama, WHEEL, disable_exllama=True, disable_exllamav2=True, no_use_cuda_fp16=True)
    for key in ("disable_exllama", "disable_exllamav2", "no_use_cuda_fp16"):
        assert "does not match the installed PyTorch" in texts[key]
    assert "takes precedence" in noted(llama, GPU, disable_exllama=True)["disable_exllama"]
    exllama_only = Environment(gpus=GPU.gpus, memory=GPU.memory, packages=frozenset({EXLLAMA}))
    assert not call(llama, exllama_only)["disable_exllama"] and call(llama, exllama_only)["disable_exllamav2"]


def test_notes_have_the_package_name_of_triton(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for platform, line in (("linux", "pip install triton,"), ("win32", "pip install triton-windows,")):
        monkeypatch.setattr("sys.platform", platform)
        assert line in noted(llama, BARE)["triton"]


def test_notes_say_why_an_option_of_tritons_kernels_changes_nothing(llama: Path, tmp_path: Path) -> None:
    texts = noted(llama, GPU, triton=True, disable_exllama=True)
    assert texts["disable_exllama"] == "No effect: Triton's kernels are used."
    other = packed(tmp_path / "opt", {**MODELS["llama"], "model_type": "gpt_neox"})
    note = noted(other, GPU, triton=True, no_inject_fused_mlp=True)["no_inject_fused_mlp"]
    assert note == "No change: the fused MLP supports Llama models only."


def test_a_model_that_the_package_cannot_read_says_so_beside_its_attention(llama: Path) -> None:
    assert "no_inject_fused_attention" not in noted(llama, GPU)
    rope = {"rope_type": "yarn", "factor": 1.03, "original_max_position_embeddings": 16}
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32, "rope_scaling": rope}))
    assert "factor=1.03" in noted(llama, GPU)["no_inject_fused_attention"]
    assert CONFIG_JSON not in arguments(llama, DEFAULTS, GPU), "no factor of its own would be the same"


def test_an_mlp_that_may_be_offloaded_to_disk_is_not_fused(llama: Path) -> None:
    spread: dict[str, Value] = {"triton": True, "gpu_memory": "8"}
    assert call(llama, GPU, **spread)["inject_fused_mlp"]
    assert "no_inject_fused_mlp" not in noted(llama, GPU, **spread)
    spread["disk"] = True
    assert not call(llama, GPU, **spread)["inject_fused_mlp"]
    assert noted(llama, GPU, **spread)["no_inject_fused_mlp"].startswith("Not fused: parts that are offloaded to disk")
    assert noted(llama, GPU, **spread, no_inject_fused_mlp=True)["no_inject_fused_mlp"].startswith("No change")


def test_a_cpu_uses_the_kernel_of_pytorch_and_none_of_auto_gptq(llama: Path) -> None:
    args = call(llama, triton=True)
    assert (args["device_map"], args["torch_dtype"]) == ({"": "cpu"}, "float16")
    assert call(llama, wbits=3)["torch_dtype"] == "bfloat16", "faster on a CPU without a kernel"
    assert args["disable_exllama"] and args["disable_exllamav2"]
    assert not (args["use_triton"] or args["use_cuda_fp16"] or args["inject_fused_mlp"])
    assert KERNEL in arguments(llama, DEFAULTS, NO_GPU)
    assert KERNEL not in arguments(llama, DEFAULTS | {"wbits": 3}, NO_GPU)
    assert noted(llama, wbits=3)["wbits"].startswith("Slow")


def test_quantization_is_that_of_the_models_files_unless_set_by_options(llama: Path, tmp_path: Path) -> None:
    assert call(llama)["quantize_config"] == {"bits": 4, "group_size": 128, "desc_act": False}
    overridden = call(llama, wbits=8, groupsize=32, desc_act=True)["quantize_config"]
    assert overridden == {"bits": 8, "group_size": 32, "desc_act": True}
    assert {"wbits", "groupsize"} <= set(noted(llama, wbits=8, groupsize=32))
    packed(tmp_path, ACT_ORDER)
    assert call(tmp_path)["quantize_config"]["desc_act"]


def test_an_old_model_without_quantization_config_counts_as_4_bits_without_groups(unstated: Path) -> None:
    assert call(unstated)["quantize_config"] == {"bits": 4, "group_size": -1, "desc_act": False}
    (unstated / "quantize_config.json").write_text(json.dumps({"bits": 3, "group_size": 64, "desc_act": True}))
    assert call(unstated)["quantize_config"] == {"bits": 3, "group_size": 64, "desc_act": True}


WEIGHT_FILES = [
    (["model.safetensors"], "model", True),
    (["gptq_model-4bit-128g.safetensors"], "gptq_model-4bit-128g", True),
    (["a.safetensors", "b.safetensors", "z.pt"], "b", True),
    (["llama-7b-4bit.pt", "pytorch_model.bin"], "llama-7b-4bit", False),
    (["pytorch_model.bin"], "pytorch_model", False),
    (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "model", True),
    (["adapter_model.safetensors", "old.pt"], "old", False),
]


def test_the_last_weight_file_of_the_preferred_format_is_loaded(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (files, name, safe) in enumerate(WEIGHT_FILES):
        with subtests.test(files=files):
            args = call(packed(tmp_path / str(number), LLAMA, *files))
            assert (args["model_basename"], args["use_safetensors"]) == (name, safe)


FUSED: dict[str, tuple[dict[str, Any], str, dict[str, Value], bool]] = {
    "llama": (MODELS["llama"], "cpu", {}, True),
    "grouped": (MODELS["grouped"], "gpu", {}, False),
    "opt": (MODELS["opt"], "gpu", {}, False),
    "narrow": (LLAMA | {"head_dim": 64}, "gpu", {}, False),
    "act-order": (ACT_ORDER, "gpu", {}, True),
    "act-order with exllama": (ACT_ORDER, "gpu", {"disable_exllamav2": True}, False),
    "act-order without exllama": (ACT_ORDER, "wheel", {"disable_exllamav2": True}, True),
    "disk": (MODELS["llama"], "cpu", {"disk": True, "cpu_memory": "1"}, False),
}


def test_attention_is_fused_where_possible_and_noted_where_not(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for name, (config, machine, options, fused) in FUSED.items():
        with subtests.test(name):
            path = packed(tmp_path / name, config)
            assert call(path, MACHINES[machine], **options)["inject_fused_attention"] == fused
            assert ("no_inject_fused_attention" in noted(path, MACHINES[machine], **options)) != fused


def test_memory_can_be_limited_and_further_layers_offloaded_to_disk(llama: Path) -> None:
    args = call(llama, cpu_memory="2GiB", disk=True)
    assert (args["device_map"], args["max_memory"]) == ("auto", {"cpu": 2 * GIB})
    assert args["offload_folder"]
    assert "disk" in noted(llama, disk=True)


def test_the_slow_tokenizer_can_be_chosen(llama: Path) -> None:
    assert arguments(llama, DEFAULTS, NO_GPU)[TOKENIZER]["use_fast"]
    assert not arguments(llama, DEFAULTS | {"no_use_fast": True}, NO_GPU)[TOKENIZER]["use_fast"]
    assert "no_use_fast" not in noted(llama, no_use_fast=True)


def test_explain_imports_none_of_the_libraries(llama: Path) -> None:
    program = (
        "import sys, json; from pathlib import Path; from modules.engines.autogptq.loader import LOADER;"
        f"explained = LOADER.explain(Path({str(llama)!r}), json.loads({json.dumps(json.dumps(DEFAULTS))}));"
        "loaded = [name for name in ('torch', 'transformers', 'auto_gptq', 'numpy') if name in sys.modules];"
        "print(loaded, list(explained))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "[] ['calls', 'notes']", run.stderr
