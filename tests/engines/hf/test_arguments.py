"""Load options become calls of transformers: no option is ignored silently, and the libraries accept every call."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from modules.core.paths import ROOT
from modules.engines.hf import environment, loader
from modules.engines.hf.arguments import TOKENIZER, Environment, ModelConfig, arguments, model_call
from modules.engines.hf.notes import notes
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.options.option import Option, Value, size_in_bytes
from modules.system.gpus import Gpu, GpuMonitor

GIB = 1 << 30
KEYS = LOADERS["Transformers"].options
DEFAULTS = {key: OPTIONS[key].default for key in KEYS}

NO_GPU = Environment(memory=64 * GIB)
TWO_GPUS = Environment(gpus=(24 * GIB, 16 * GIB), memory=64 * GIB, packages=frozenset({"flash_attn"}))
MACHINES = {"cpu": NO_GPU, "gpus": TWO_GPUS, "gpu without flash": Environment(gpus=(24 * GIB,), memory=64 * GIB)}
NO_NVCC = Environment(gpus=(24 * GIB,), memory=64 * GIB, packages=frozenset({"triton"}), lacks_nvcc=True)

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}
GPTQ = LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 3, "group_size": 64}}
AWQ = LLAMA | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}}
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "gptq": GPTQ,
    "awq": AWQ,
    "gpt2": {"model_type": "gpt2", "n_positions": 1024},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make a model folder for each of MODELS. Tests do not write to them."""
    parent = tmp_path_factory.mktemp("models")
    return {name: model(parent / name, **config) for name, config in MODELS.items()}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return model(tmp_path, **LLAMA)


def model(folder: Path, **config: Any) -> Path:
    """Write a config.json into `folder`, which is created if necessary."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def load_args(path: Path, machine: Environment = NO_GPU, **options: Value) -> dict[str, Any]:
    return model_call(arguments(path, DEFAULTS | options, machine))[1]


def note_texts(path: Path, machine: Environment = NO_GPU, **options: Value) -> dict[str, str]:
    return {note.option: note.text["en"] for note in notes(path, DEFAULTS | options, machine)}


def changed(option: Option) -> Value:
    """Return a value of `option` that is not its default."""
    if isinstance(option.default, bool):
        return not option.default
    if option.choices:
        return next(choice for choice in option.choices if choice != option.default)
    if isinstance(option.default, str):
        return option.example
    return option.parse(option.default + max(3, option.least or 0))


# -- no option is ignored silently -------------------------------------------------------------------------------------


def test_every_option_changes_the_calls_or_has_a_note(folders: dict[str, Path], subtests: pytest.Subtests) -> None:
    for (name, folder), (machine_name, machine) in product(folders.items(), (MACHINES | {"no nvcc": NO_NVCC}).items()):
        unchanged = arguments(folder, DEFAULTS, machine)
        for key in KEYS:
            with subtests.test(model=name, machine=machine_name, option=key):
                options = {key: changed(OPTIONS[key])}
                same = arguments(folder, DEFAULTS | options, machine) == unchanged
                assert not same or key in note_texts(folder, machine, **options)


@pytest.mark.parametrize("key", ["quant_type", "compute_dtype", "use_double_quant"])
def test_the_options_of_load_in_4bit_change_the_calls_once_it_is_set(llama: Path, key: str) -> None:
    options = {"load_in_4bit": True, key: changed(OPTIONS[key])}
    assert load_args(llama, **options) != load_args(llama, load_in_4bit=True)
    assert key not in note_texts(llama, **options)


def test_default_options_have_no_notes(folders: dict[str, Path], subtests: pytest.Subtests) -> None:
    for (name, folder), (machine_name, machine) in product(folders.items(), MACHINES.items()):
        with subtests.test(model=name, machine=machine_name):
            assert not note_texts(folder, machine)


def test_every_note_names_an_option_of_this_loader_in_both_languages(
    folders: dict[str, Path], subtests: pytest.Subtests
) -> None:
    combinations = ({}, {"cpu": True}, {"load_in_4bit": True}, {"load_in_8bit": True}, {"use_eager_attention": True})
    for (name, folder), (machine_name, machine), key in product(folders.items(), MACHINES.items(), KEYS):
        with subtests.test(model=name, machine=machine_name, option=key):
            for options in combinations:
                for note in notes(folder, DEFAULTS | options | {key: changed(OPTIONS[key])}, machine):
                    assert note.option in KEYS, options
                    assert set(note.text) == {"zh", "en"}, options
                    assert all(note.text.values()), options


# -- the libraries accept the calls ------------------------------------------------------------------------------------

LIBRARY = """
import inspect, json, sys

import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from modules.engines.hf.build import torch_environment
from modules.engines.hf.environment import likely_environment


def parameters(function):
    return sorted(inspect.signature(function).parameters)


def frequencies(rope_parameters):
    config = transformers.LlamaConfig(
        hidden_size=4096, num_attention_heads=32, num_hidden_layers=1, rope_parameters=rope_parameters
    )
    return LlamaRotaryEmbedding(config).inv_freq.tolist()


answers = {
    "load": parameters(transformers.PreTrainedModel.from_pretrained),
    "source": inspect.getsource(transformers.PreTrainedModel.from_pretrained.__func__),
    "bitsandbytes": parameters(transformers.BitsAndBytesConfig),
    "gptq": parameters(transformers.GPTQConfig),
    "awq": parameters(transformers.AwqConfig),
    "auto": [name for name in dir(transformers) if name.startswith("AutoModel")],
    "frequencies": [frequencies(rope_parameters) for rope_parameters in json.load(sys.stdin)],
    "same machine": likely_environment() == torch_environment(),
}
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.mem_get_info = lambda device: (10 + device, 24)
answers["free memory"] = torch_environment().gpus
print(json.dumps(answers))
"""
SCALED: dict[str, dict[str, Value]] = {
    "alpha": {"alpha_value": 2.5},
    "base": {"rope_freq_base": 1e6},
    "compressed": {"compress_pos_emb": 4.0},
}


@pytest.fixture(scope="module")
def library(folders: dict[str, Path], backend: None) -> dict[str, Any]:
    """Return the output of LIBRARY, the only process of this file that imports torch and transformers."""
    scaled = json.dumps([rope(folders["llama"], **options) for options in SCALED.values()])
    run = subprocess.run(
        [sys.executable, "-c", LIBRARY], input=scaled, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    answers: dict[str, Any] = json.loads(run.stdout)
    return answers


def test_the_library_accepts_every_argument(
    library: dict[str, Any], folders: dict[str, Path], subtests: pytest.Subtests
) -> None:
    """`from_pretrained` accepts any keyword, even a misspelled one, and passes it on to the configuration."""
    each_alone = [{key: changed(OPTIONS[key])} for key in KEYS]
    together = {key: changed(OPTIONS[key]) for key in KEYS}
    for (name, folder), (machine_name, machine) in product(folders.items(), MACHINES.items()):
        with subtests.test(model=name, machine=machine_name):
            for options in [{}, *each_alone, together]:
                auto_class, args = model_call(arguments(folder, DEFAULTS | options, machine))
                assert auto_class in library["auto"], options
                for keyword in set(args) - {"rope_parameters"}:
                    assert keyword in library["load"] or f'"{keyword}"' in library["source"], (keyword, options)
                config = dict(args.get("quantization_config", {}))
                if config:
                    assert set(config) - {"quant_method"} <= set(library[config["quant_method"]]), options


def test_explain_imports_none_of_the_libraries(llama: Path) -> None:
    program = (
        "import sys, json; from pathlib import Path; from modules.engines.hf.loader import LOADER;"
        f"explained = LOADER.explain(Path({str(llama)!r}), json.loads({json.dumps(json.dumps(DEFAULTS))}));"
        "json.dumps(explained); print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout == "[]\n", run.stderr


def test_explain_predicts_the_environment_that_loading_finds(library: dict[str, Any]) -> None:
    assert library["same machine"] is True


def test_explain_counts_the_free_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """So do accelerate and the memory estimate."""
    monkeypatch.setattr(environment, "_torch_gpus", lambda: GpuMonitor(lambda: (Gpu("a card", 24 * GIB, 10 * GIB),)))
    assert environment.likely_environment().gpus == (10 * GIB,)


def test_loading_counts_the_free_memory_of_every_gpu(library: dict[str, Any]) -> None:
    assert library["free memory"] == [10, 11]


@pytest.mark.parametrize("cpu", [True, False])
def test_with_cpu_set_pytorch_is_imported_with_the_gpus_hidden(
    monkeypatch: pytest.MonkeyPatch, llama: Path, cpu: bool
) -> None:
    """The notes are still those of a machine with GPUs."""
    build: Any = ModuleType("modules.engines.hf.build")
    build.torch_environment = lambda: NO_GPU
    build.engine = lambda _path, _options, machine, _report: (os.environ["CUDA_VISIBLE_DEVICES"], machine)
    monkeypatch.setitem(sys.modules, build.__name__, build)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1,0")
    monkeypatch.setattr(loader, "likely_environment", lambda: TWO_GPUS)
    loaded: Any = loader.LOADER.load(llama, {**DEFAULTS, "cpu": cpu}, lambda _: None)
    assert loaded == (("-1", TWO_GPUS) if cpu else ("1,0", NO_GPU))


# -- dtypes ------------------------------------------------------------------------------------------------------------


DEVICES: list[tuple[str, dict[str, Value], str, object]] = [
    ("cpu", {}, "float32", {"": "cpu"}),
    ("cpu", {"cpu": True}, "float32", {"": "cpu"}),
    ("cpu", {"bf16": True}, "bfloat16", {"": "cpu"}),
    ("cpu", {"bf16": True, "cpu": True}, "float32", {"": "cpu"}),
    ("cpu", {"load_in_8bit": True}, "bfloat16", {"": "cpu"}),
    ("cpu", {"load_in_4bit": True, "cpu": True}, "float32", {"": "cpu"}),
    ("gpus", {}, "float16", {"": 0}),
    ("gpus", {"bf16": True}, "bfloat16", {"": 0}),
    ("gpus", {"cpu": True}, "float32", {"": "cpu"}),
    ("gpus", {"load_in_4bit": True, "bf16": True}, "float16", "auto"),
    ("gpus", {"auto_devices": True}, "float16", "auto"),
    ("gpus", {"disk": True}, "float16", "auto"),
]


def test_the_machine_and_the_options_decide_dtype_and_device(llama: Path, subtests: pytest.Subtests) -> None:
    """Without a GPU a model loads on the CPU, and `cpu` always means float32."""
    for machine, options, dtype, device_map in DEVICES:
        with subtests.test(machine=machine, options=options):
            args = load_args(llama, MACHINES[machine], **options)
            assert (args["dtype"], args["device_map"]) == (dtype, device_map)


QUANTIZED_DTYPES: list[tuple[str, str, dict[str, Value], str]] = [
    ("gptq", "cpu", {}, "float32"),
    ("awq", "cpu", {"load_in_4bit": True}, "float32"),
    ("gptq", "cpu", {"bf16": True}, "bfloat16"),
    ("gptq", "cpu", {"bf16": True, "cpu": True}, "float32"),
    ("awq", "gpus", {"bf16": True}, "float16"),
    ("awq", "gpus", {"bf16": True, "cpu": True}, "float32"),
    ("bitsandbytes", "cpu", {}, "bfloat16"),
    ("bitsandbytes", "cpu", {"cpu": True}, "bfloat16"),
]


def test_a_quantized_model_computes_in_float32_on_the_cpu_unless_bf16_is_set(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for method, machine_name, options, dtype in QUANTIZED_DTYPES:
        with subtests.test(method=method, machine=machine_name, options=options):
            machine = MACHINES[machine_name]
            quantization = {"quant_method": method, "bits": 4}
            path = model(tmp_path / method, **LLAMA | {"quantization_config": quantization})
            assert load_args(path, machine, **options)["dtype"] == dtype
            without = load_args(path, machine, **dict.fromkeys(options, False))["dtype"]
            texts = note_texts(path, machine, **options)
            if options.get("bf16"):
                assert ("bf16" in texts) == (dtype != "bfloat16")
            if options.get("cpu") and not machine.gpus:
                assert ("cpu" in texts) == (not options.get("bf16") and dtype == without)


# -- devices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("10", 10 * GIB), ("9.5GiB", 9.5 * GIB), ("8000MiB", 8000 << 20), ("2 GB", 2 * 10**9), ("500mb", 5 * 10**8)],
)
def test_memory_sizes_are_parsed_with_their_units(text: str, size: float) -> None:
    assert size_in_bytes(text) == size


LIMITS: list[tuple[str, dict[str, Value], dict[str, int] | None]] = [
    ("gpus", {"gpu_memory": "10, 8000MiB"}, {"0": 10 * GIB, "1": 8000 << 20, "cpu": 64 * GIB}),
    ("gpus", {"gpu_memory": "10 4", "cpu_memory": "20"}, {"0": 10 * GIB, "1": 4 * GIB, "cpu": 20 * GIB}),
    ("gpus", {"gpu_memory": "1,2,3"}, {"0": GIB, "1": 2 * GIB, "cpu": 64 * GIB}),
    ("gpus", {"cpu_memory": "4", "cpu": True, "gpu_memory": "10"}, {"cpu": 4 * GIB}),
    ("gpus", {"disk": True, "cpu": True}, {"cpu": 64 * GIB}),
    ("cpu", {"cpu_memory": "500MiB", "gpu_memory": "10"}, {"cpu": 500 << 20}),
    ("cpu", {"gpu_memory": "10"}, None),
    ("cpu", {"disk": True}, None),
]


@pytest.mark.works("gpu", loader="Transformers")
def test_memory_is_limited_by_device(llama: Path, subtests: pytest.Subtests) -> None:
    for machine, options, limits in LIMITS:
        with subtests.test(machine=machine, options=options):
            assert load_args(llama, MACHINES[machine], **options).get("max_memory") == limits


def test_cpu_memory_alone_leaves_most_of_each_gpu_usable(llama: Path) -> None:
    limits = load_args(llama, TWO_GPUS, cpu_memory="4")["max_memory"]
    assert limits["cpu"] == 4 * GIB
    assert 0.85 * 24 * GIB < limits["0"] < 24 * GIB


def test_more_sizes_than_gpus_have_a_note(llama: Path) -> None:
    assert "first 2" in note_texts(llama, TWO_GPUS, gpu_memory="1,2,3")["gpu_memory"]
    assert "gpu_memory" not in note_texts(llama, TWO_GPUS, gpu_memory="1,2")


def test_disk_sets_an_offload_folder_below_cache(llama: Path) -> None:
    assert load_args(llama, disk=True)["offload_folder"].startswith("cache/")
    assert "offload_folder" not in load_args(llama)


# -- quantization and attention ----------------------------------------------------------------------------------------


def test_load_in_4bit_has_options_of_its_own_and_load_in_8bit_has_none(llama: Path) -> None:
    options = {"quant_type": "fp4", "compute_dtype": "bfloat16", "use_double_quant": True}
    assert load_args(llama, load_in_4bit=True, **options)["quantization_config"] == {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_use_double_quant": True,
    }
    config = load_args(llama, load_in_8bit=True, **options)["quantization_config"]
    assert config == {"quant_method": "bitsandbytes", "load_in_8bit": True}
    assert set(options) <= set(note_texts(llama, load_in_8bit=True, **options))


def test_load_in_4bit_takes_precedence_over_load_in_8bit_with_a_note(llama: Path) -> None:
    both: dict[str, Value] = {"load_in_4bit": True, "load_in_8bit": True}
    assert "load_in_8bit" not in load_args(llama, **both)["quantization_config"]
    assert "load_in_8bit" in note_texts(llama, **both)


def test_layers_quantized_on_load_may_be_offloaded_to_the_cpu_if_gpu_memory_is_limited(llama: Path) -> None:
    config = load_args(llama, TWO_GPUS, load_in_8bit=True, gpu_memory="1")["quantization_config"]
    assert config["llm_int8_enable_fp32_cpu_offload"] is True


def test_a_quantized_model_is_not_quantized_again(tmp_path: Path) -> None:
    path = model(tmp_path, **GPTQ)
    assert "quantization_config" not in load_args(path, load_in_4bit=True)
    assert "gptq" in note_texts(path, load_in_4bit=True)["load_in_4bit"]


def test_without_exllama_a_gptq_model_gets_a_kernel_that_can_train(tmp_path: Path) -> None:
    path = model(tmp_path, **GPTQ)
    for key in ("disable_exllama", "disable_exllamav2"):
        assert "quantization_config" not in load_args(path, **{key: True}), "a CPU uses that kernel anyway"
        config = load_args(path, TWO_GPUS, **{key: True})["quantization_config"]
        assert config == {"quant_method": "gptq", "bits": 3, "backend": "gptq_torch"}


KERNELS: list[tuple[dict[str, Any], set[str], str | None]] = [
    ({"quant_method": "gptq", "bits": 4}, {"triton"}, "gptq_triton"),
    ({"quant_method": "gptq", "bits": 8}, set(), "gptq_torch"),
    ({"quant_method": "gptq", "bits": 3}, {"triton"}, "gptq_torch"),
    ({"quant_method": "awq", "bits": 4, "version": "GEMM", "group_size": 128}, {"triton"}, "gemm_triton"),
    ({"quant_method": "awq", "bits": 4, "group_size": 16}, {"triton"}, "torch_awq"),
    ({"quant_method": "awq", "bits": 4, "version": "gemm"}, set(), "torch_awq"),
    ({"quant_method": "awq", "bits": 4, "version": "gemv"}, {"triton"}, None),
]


@pytest.mark.works("gpu", loader="Transformers")
def test_without_nvcc_a_gpu_gets_a_kernel_that_needs_no_compiler(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (quantization, packages, kernel) in enumerate(KERNELS):
        with subtests.test(quantization=quantization, packages=packages):
            path = model(tmp_path / str(number), **LLAMA | {"quantization_config": quantization})
            no_nvcc = Environment((24 * GIB,), 64 * GIB, frozenset(packages), lacks_nvcc=True)
            config = {key: quantization[key] for key in ("quant_method", "bits")} | {"backend": kernel}
            assert load_args(path, no_nvcc).get("quantization_config") == (config if kernel else None)
            assert ("nvcc" in note_texts(path, no_nvcc).get("disable_exllama", "")) == bool(kernel)
            with_nvcc = dataclasses.replace(no_nvcc, lacks_nvcc=False)
            for unaffected in ({"machine": no_nvcc, "cpu": True}, {"machine": with_nvcc}, {}):
                assert "quantization_config" not in load_args(path, **unaffected), unaffected
                assert "nvcc" not in str(note_texts(path, **unaffected)), unaffected


def test_nvcc_is_searched_where_pytorch_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    before = environment.nvcc()
    program = tmp_path / "bin" / ("nvcc.exe" if sys.platform == "win32" else "nvcc")
    program.parent.mkdir()
    program.touch(0o755)
    assert environment.nvcc() == str(program) != before
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "elsewhere"))
    assert environment.nvcc() is None, "PyTorch does not search PATH if CUDA_PATH is set"
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert environment.nvcc() == str(program)


def test_the_library_chooses_the_attention_by_default(llama: Path) -> None:
    assert "attn_implementation" not in load_args(llama, TWO_GPUS)
    assert load_args(llama, use_eager_attention=True)["attn_implementation"] == "eager"
    assert load_args(llama, TWO_GPUS, use_flash_attention_2=True)["attn_implementation"] == "flash_attention_2"


def test_flash_attention_without_its_package_has_a_note_on_installing_it(llama: Path) -> None:
    machine = MACHINES["gpu without flash"]
    assert "attn_implementation" not in load_args(llama, machine, use_flash_attention_2=True)
    assert "pip install" in note_texts(llama, machine, use_flash_attention_2=True)["use_flash_attention_2"]


# -- Auto classes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LLAMA, "AutoModelForCausalLM"),
        ({}, "AutoModelForCausalLM"),
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "AutoModelForSeq2SeqLM",
        ),
        ({"architectures": ["LlavaForConditionalGeneration"]}, "AutoModelForImageTextToText"),
        ({"auto_map": {"AutoConfig": "a.B", "AutoModel": "a.C"}}, "AutoModel"),
        ({"auto_map": {"AutoModel": "a.C", "AutoModelForCausalLM": "a.D"}}, "AutoModelForCausalLM"),
    ],
)
def test_a_model_is_loaded_by_the_class_that_generates_text(tmp_path: Path, config: dict[str, Any], name: str) -> None:
    assert model_call(arguments(model(tmp_path, **config), DEFAULTS, NO_GPU))[0] == name


def test_remote_code_is_listed_with_its_hashes(llama: Path) -> None:
    assert "trust_remote_code" not in note_texts(llama)
    assert "comes without code" in note_texts(llama, trust_remote_code=True)["trust_remote_code"]
    (llama / "modeling_own.py").write_bytes(b"print('hello')\n")
    first = note_texts(llama, trust_remote_code=True)["trust_remote_code"]
    assert hashlib.sha256(b"print('hello')\n").hexdigest()[:12] in first and "modeling_own.py" in first
    (llama / "modeling_own.py").write_bytes(b"print('hullo')\n")
    assert note_texts(llama, trust_remote_code=True)["trust_remote_code"] != first
    (llama / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["owner/name--tok.Own", null]}}')
    assert "names owner/name--tok.Own, of another" in note_texts(llama, trust_remote_code=True)["trust_remote_code"]
    (llama / "tokenizer_config.json").unlink()


def test_limits_set_by_hand_take_precedence_over_automatic_ones_with_a_note(llama: Path) -> None:
    for limit in ("gpu_memory", "cpu_memory"):
        options: dict[str, Value] = {"auto_devices": True, limit: "8"}
        assert "set by hand take precedence" in note_texts(llama, TWO_GPUS, **options)["auto_devices"]
    assert "auto_devices" not in note_texts(llama, TWO_GPUS, auto_devices=True)


def test_remote_code_runs_only_if_it_is_trusted(llama: Path) -> None:
    for trusted in (False, True):
        calls = arguments(llama, DEFAULTS | {"trust_remote_code": trusted}, NO_GPU)
        assert calls[TOKENIZER]["trust_remote_code"] is trusted
        assert model_call(calls)[1]["trust_remote_code"] is trusted


def test_pickles_are_read_as_weights_only_and_nothing_is_downloaded(llama: Path) -> None:
    assert load_args(llama)["weights_only"] is True
    assert load_args(llama)["local_files_only"] is True


# -- rotary positions --------------------------------------------------------------------------------------------------


def rope(path: Path, **options: Value) -> dict[str, Any]:
    parameters: dict[str, Any] = load_args(path, **options)["rope_parameters"]
    return parameters


def test_rope_is_not_changed_by_default(llama: Path) -> None:
    assert "rope_parameters" not in load_args(llama)
    assert "rope_parameters" not in load_args(llama, rope_freq_base=10000.0), "the value in config.json"


def test_the_frequency_base_is_set_and_alpha_raises_it(llama: Path) -> None:
    assert rope(llama, rope_freq_base=1e6) == {"rope_type": "default", "rope_theta": 1e6}
    assert rope(llama, alpha_value=2.5)["rope_theta"] == pytest.approx(10000 * 2.5 ** (128 / 126))
    assert rope(llama, alpha_value=2.0, rope_freq_base=5e5)["rope_theta"] == pytest.approx(5e5 * 2 ** (128 / 126))


def test_compression_is_linear_scaling_that_keeps_the_base(llama: Path) -> None:
    assert rope(llama, compress_pos_emb=4.0) == {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    both = rope(llama, compress_pos_emb=2.0, rope_freq_base=5e5)
    assert both == {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({}, 4096),
        ({"alpha_value": 1.75}, 6144),
        ({"alpha_value": 2.5}, 8192),
        ({"compress_pos_emb": 2.0}, 8192),
        ({"compress_pos_emb": 3.0}, 12288),
        ({"rope_freq_base": 1e6}, 4096),
    ],
)
def test_the_context_grows_as_the_help_of_the_options_says(llama: Path, options: dict[str, Value], length: int) -> None:
    assert ModelConfig(llama).context_length(DEFAULTS | options) == length


def test_the_linear_scaling_that_the_model_has_anyway_changes_nothing(tmp_path: Path) -> None:
    path = model(tmp_path, **LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}})
    assert "rope_parameters" not in load_args(path, compress_pos_emb=4.0)
    assert ModelConfig(path).context_length(DEFAULTS | {"compress_pos_emb": 4.0}) == 4096


def test_compression_that_replaces_another_kind_of_scaling_has_a_note(tmp_path: Path) -> None:
    path = model(tmp_path, **LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}})
    assert "llama3" in note_texts(path, compress_pos_emb=2.0)["compress_pos_emb"]
    kept = rope(path, alpha_value=2.0)
    assert (kept["rope_type"], kept["factor"]) == ("llama3", 8.0)


def test_rope_of_every_layer_type_is_scaled(tmp_path: Path) -> None:
    layers = {
        "full": {"rope_type": "default", "rope_theta": 1e6},
        "sliding": {"rope_type": "default", "rope_theta": 1e4},
    }
    path = model(tmp_path, **LLAMA | {"rope_parameters": layers})
    scaled = rope(path, alpha_value=2.0)
    ratios = [scaled[name]["rope_theta"] / layers[name]["rope_theta"] for name in layers]
    assert ratios == pytest.approx([2 ** (128 / 126)] * 2)


def test_rope_of_a_nested_language_model_is_scaled(tmp_path: Path) -> None:
    path = model(tmp_path, architectures=["LlavaForConditionalGeneration"], text_config=LLAMA)
    args = load_args(path, compress_pos_emb=2.0)
    assert args["text_config"]["rope_parameters"]["factor"] == 2.0
    assert args["text_config"]["hidden_size"] == LLAMA["hidden_size"]
    assert ModelConfig(path).context_length(DEFAULTS) == 4096


def test_the_rotary_frequencies_follow_the_formulas(library: dict[str, Any]) -> None:
    """The frequencies that the library computes from the arguments for a model with one layer."""
    frequencies = dict(zip(SCALED, library["frequencies"], strict=True))
    plain = [10000.0 ** (-2 * pair / 128) for pair in range(64)]
    assert frequencies["base"] == pytest.approx([1e6 ** (-2 * pair / 128) for pair in range(64)], rel=1e-5)
    assert frequencies["compressed"] == pytest.approx([value / 4 for value in plain], rel=1e-5)
    assert frequencies["alpha"][0] == plain[0] == 1, "the fastest pair is not changed"
    assert frequencies["alpha"][63] == pytest.approx(plain[63] / 2.5, rel=1e-5), "the slowest is alpha times slower"
