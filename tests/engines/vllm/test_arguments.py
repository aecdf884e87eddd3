"""Options of vLLM become flags of `vllm serve`: none is ignored silently."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import OptionError
from modules.engines.vllm.arguments import COMMAND, ENVIRONMENT, arguments, child_environment
from modules.engines.vllm.environment import Environment
from modules.engines.vllm.machines import lasting_refusal, lines_for_others, refusal
from modules.engines.vllm.notes import notes
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.options.option import Value
from modules.system.gpus import Gpu

GIB = 1 << 30
CARD = Gpu("H200", 140 * GIB, 139 * GIB)
CPU = Environment(is_installed=True, is_cpu_build=True)
GPUS = Environment(is_installed=True, gpus=(CARD, CARD))
DEFAULTS = {key: OPTIONS[key].default for key in LOADERS["vLLM"].options}
TWO_MACHINES = {"nnodes": 2, "master_addr": "10.0.0.1", "tensor_parallel_size": 4}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 8, "max_position_embeddings": 2048}))
    return folder


def flags(model: Path, environment: Environment = GPUS, **options: Value) -> list[str]:
    command: list[str] = arguments(model, DEFAULTS | options, environment)[COMMAND]
    return command[command.index("serve") + 2 :]


def texts(model: Path, environment: Environment = GPUS, **options: Value) -> dict[str, str]:
    return {note.option: note.text["en"] for note in notes(model, DEFAULTS | options, environment)}


def refused(model: Path, environment: Environment = GPUS, **options: Value) -> tuple[str, str]:
    error = refusal(model, DEFAULTS | options, environment)
    return (error.option, error.say("en").partition("expected ")[2]) if error else ("", "")


VALUES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "tensor_parallel_size": ({"tensor_parallel_size": 2}, ["--tensor-parallel-size", "2"]),
    "pipeline_parallel_size": ({"pipeline_parallel_size": 2}, ["--pipeline-parallel-size", "2"]),
    "data_parallel_size": ({"data_parallel_size": 2}, ["--data-parallel-size", "2", "--api-server-count", "1"]),
    "distributed_executor_backend": (
        {"distributed_executor_backend": "ray"},
        ["--distributed-executor-backend", "ray"],
    ),
    "max_model_len": ({"max_model_len": 512}, ["--max-model-len", "512"]),
    "gpu_memory_utilization": ({"gpu_memory_utilization": 0.5}, ["--gpu-memory-utilization", "0.5"]),
    "kv_cache_gib": ({"kv_cache_gib": 0.5}, ["--kv-cache-memory-bytes", str(GIB // 2)]),
    "kv_cache_dtype": ({"kv_cache_dtype": "fp8"}, ["--kv-cache-dtype", "fp8"]),
    "quantization": ({"quantization": "fp8"}, ["--quantization", "fp8"]),
    "max_num_seqs": ({"max_num_seqs": 8}, ["--max-num-seqs", "8"]),
    "enforce_eager": ({"enforce_eager": True}, ["--enforce-eager"]),
    "trust_remote_code": ({"trust_remote_code": True}, ["--trust-remote-code"]),
    "engine_args": ({"engine_args": "--seed 3 --served-model-name 'a b'"}, ["--seed", "3", "a b"]),
    "nnodes": (
        TWO_MACHINES,
        ["--nnodes", "2", "--node-rank", "0", "--master-addr", "10.0.0.1", "--master-port", "29501"],
    ),
    "node_rank": (TWO_MACHINES | {"node_rank": 1}, ["--headless", "--node-rank", "1"]),
    "master_addr": (TWO_MACHINES | {"master_addr": "head"}, ["--master-addr", "head"]),
    "master_port": (TWO_MACHINES | {"master_port": 29600}, ["--master-port", "29600"]),
    "enable_lora": ({"enable_lora": True}, ["--enable-lora", "--max-loras", "1", "--max-lora-rank", "16"]),
    "max_loras": ({"enable_lora": True, "max_loras": 2}, ["--max-loras", "2"]),
    "max_lora_rank": ({"enable_lora": True, "max_lora_rank": 64}, ["--max-lora-rank", "64"]),
}


@pytest.mark.works("gpu", loader="vLLM")
def test_every_option_changes_the_command(model: Path, subtests: pytest.Subtests) -> None:
    usual = flags(model)
    assert VALUES.keys() == DEFAULTS.keys() - {"vllm_program"}
    for key, (options, expected) in VALUES.items():
        with subtests.test(key):
            words = flags(model, **options)
            assert set(expected) <= set(words) and words != usual


def test_without_options_vllm_gets_a_socket_a_name_and_its_share_of_the_gpu(model: Path) -> None:
    assert flags(model) == [
        *("--uds", "{socket}", "--served-model-name=llama", "--uvicorn-log-level", "warning"),
        *("--enable-prompt-tokens-details", "--enable-tokenizer-info-endpoint", "--gpu-memory-utilization", "0.92"),
    ]


def test_on_a_cpu_the_size_of_the_cache_is_set_and_no_share(model: Path) -> None:
    words = flags(model, CPU)
    assert words[-2:] == ["--kv-cache-memory-bytes", str(4 * GIB)] and "--gpu-memory-utilization" not in words
    assert flags(model, dataclasses.replace(CPU, gpus=(CARD,))) == words, "the build for CPUs does not use a GPU"


def test_a_machine_that_only_computes_has_no_server(model: Path) -> None:
    words = flags(model, **TWO_MACHINES, node_rank=1)
    assert words[0] == "--headless" and not {"--uds", "--served-model-name=llama", "--api-server-count"} & set(words)


def test_no_value_can_be_mistaken_for_a_flag(model: Path) -> None:
    named = model.rename(model.parent / "--trust-remote-code")
    assert "--served-model-name=--trust-remote-code" in flags(named) and "--trust-remote-code" not in flags(named)
    assert "--model=--trust-remote-code" in lines_for_others(named, DEFAULTS | TWO_MACHINES)[0]
    for address in ("--trust-remote-code", "-x", "a b", "a;b"):
        with pytest.raises(OptionError):
            OPTIONS["master_addr"].parse(address)
    assert [OPTIONS["master_addr"].parse(one) for one in ("head-1.local", "[fe80::1]", "::1")]


def test_vllm_reports_and_downloads_nothing(model: Path) -> None:
    variables = arguments(model, DEFAULTS, CPU)[ENVIRONMENT]
    assert variables == {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    with_loras = arguments(model, DEFAULTS | {"enable_lora": True}, CPU)[ENVIRONMENT]
    assert with_loras == variables | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}


def test_another_installation_is_used_where_it_is_named_or_where_there_is_no_other(model: Path) -> None:
    def program(environment: Environment, named: str = "") -> str:
        command: list[str] = arguments(model, DEFAULTS | {"vllm_program": named}, environment)[COMMAND]
        return command[0]

    assert program(CPU) == program(Environment(is_installed=True, program="/usr/bin/vllm")) == sys.executable
    assert program(Environment(program="/usr/bin/vllm")) == "/usr/bin/vllm"
    assert program(CPU, "/opt/vllm/bin/vllm") == "/opt/vllm/bin/vllm"


def test_another_installation_preloads_its_openmp_and_sees_no_packages_of_ours(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "venv" / "lib" / "libiomp5.so"
    library.parent.mkdir(parents=True)
    library.touch()
    named = DEFAULTS | {"vllm_program": str(tmp_path / "venv" / "bin" / "vllm")}
    variables = arguments(model, named, Environment())[ENVIRONMENT]
    assert variables["LD_PRELOAD"] == str(library)
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("LD_PRELOAD", "/theirs.so")
    environment = child_environment(variables, own_installation=False)
    assert environment["LD_PRELOAD"] == f"{library}:/theirs.so" and "PYTHONPATH" not in environment
    assert child_environment({}, own_installation=True)["PYTHONPATH"] == "/ours"


def test_vllm_asks_us_for_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sk-1")
    for own_installation in (True, False):
        assert "VLLM_API_KEY" not in child_environment({}, own_installation)


# -- other machines ----------------------------------------------------------------------------------------------------


def test_the_line_for_each_other_machine_repeats_what_is_set(model: Path) -> None:
    options = DEFAULTS | TWO_MACHINES | {"max_model_len": 512, "enforce_eager": True, "engine_args": "--seed 3"}
    assert lines_for_others(model, options) == [
        "./start.sh --loader vLLM --model llama --max-model-len 512 --tensor-parallel-size 4 --enforce-eager "
        "--nnodes 2 --master-addr 10.0.0.1 '--engine-args=--seed 3' --node-rank 1"
    ]
    assert len(lines_for_others(model, options | {"nnodes": 4})) == 3
    assert lines_for_others(model, options | {"node_rank": 1}) == lines_for_others(model, DEFAULTS) == []


def test_the_lines_for_ray_start_its_cluster(model: Path) -> None:
    options = DEFAULTS | {"distributed_executor_backend": "ray", "master_addr": "10.0.0.1", "nnodes": 2}
    assert lines_for_others(model, options) == ["ray start --head --port=6379", "ray start --address=10.0.0.1:6379"]
    assert "--nnodes" not in flags(model, distributed_executor_backend="ray", nnodes=2, master_addr="10.0.0.1")
    assert set(texts(model, distributed_executor_backend="ray", nnodes=2)) == {"nnodes", "distributed_executor_backend"}


def test_the_line_is_shown_as_a_note(model: Path) -> None:
    assert texts(model, **TWO_MACHINES)["nnodes"].startswith("Run on machine 1: ./start.sh --loader vLLM")
    assert "10.0.0.1" in texts(model, **TWO_MACHINES, node_rank=1)["node_rank"]


def test_what_has_no_effect_or_may_not_fit_is_noted(model: Path, subtests: pytest.Subtests) -> None:
    both = dataclasses.replace(CPU, gpus=(CARD,))
    for environment, options, key, words in (
        (CPU, {"gpu_memory_utilization": 0.5}, "gpu_memory_utilization", "No effect: vLLM runs on the CPU."),
        (GPUS, {"gpu_memory_utilization": 0.5, "kv_cache_gib": 1.0}, "gpu_memory_utilization", "Not used for the"),
        (both, {}, "vllm_program", "The installed packages are those for CPUs. For the GPU, install vLLM in"),
        (CPU, {"tensor_parallel_size": 2}, "tensor_parallel_size", "On a CPU each process needs cores of its own"),
        (GPUS, {"trust_remote_code": True}, "trust_remote_code", "No change: this model comes without code."),
    ):
        with subtests.test(key, options=options):
            assert texts(model, environment, **options)[key].startswith(words)
    assert not texts(model, CPU) and not texts(model, GPUS, gpu_memory_utilization=0.5, trust_remote_code=False)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    assert "quantized already (awq)" in texts(model, quantization="fp8")["quantization"]
    assert not texts(model)


# -- what is checked before the load -----------------------------------------------------------------------------------

REFUSED: list[tuple[Environment, dict[str, Any], str, str]] = [
    (GPUS, {"tensor_parallel_size": 3}, "tensor_parallel_size", "a divisor of the model's 8 attention heads."),
    (GPUS, {"tensor_parallel_size": 4}, "tensor_parallel_size", "a value with which 2 GPUs suffice on this machine"),
    (GPUS, {"tensor_parallel_size": 2, "data_parallel_size": 4}, "data_parallel_size", "a value with which 2 GPUs"),
    (GPUS, {"nnodes": 2}, "master_addr", "the address by which the others reach machine 0."),
    (GPUS, {**TWO_MACHINES, "node_rank": 2}, "node_rank", "0 to 1, as there are 2 machines."),
    (GPUS, {**TWO_MACHINES, "nnodes": 3}, "nnodes", "a divisor of 4, the number of GPUs"),
    (CPU, {"pipeline_parallel_size": 2, "enforce_eager": True}, "enforce_eager", "False, as vLLM cannot compute"),
    (GPUS, {"engine_args": "--seed '3"}, "engine_args", "flags with closed quotes."),
    (GPUS, {"engine_args": "--seed 3 --api_key=sk-1"}, "engine_args", "other flags, as this one decides how"),
    (GPUS, {"engine_args": "--served-model-name a"}, "engine_args", "other flags, as this one decides how"),
    (
        dataclasses.replace(GPUS, gpus=(CARD, Gpu("busy", 100, 83))),
        {"tensor_parallel_size": 2},
        "gpu_memory_utilization",
        "at most 0.83, as 83 % of GPU 1 (busy) is free.",
    ),
]


def test_what_vllm_would_refuse_after_half_a_minute_is_refused_at_once(model: Path, subtests: pytest.Subtests) -> None:
    for environment, options, key, expected in REFUSED:
        with subtests.test(key, options=options):
            option, words = refused(model, environment, **options)
            assert option == key and words.startswith(expected)
            assert key in texts(model, environment, **options)


def test_memory_that_another_model_holds_is_no_reason_to_refuse_before_it_is_unloaded(model: Path) -> None:
    for environment, options, key, _ in REFUSED:
        found = lasting_refusal(model, DEFAULTS | options, environment)
        assert (found and found.option) == (None if key == "gpu_memory_utilization" else key)


def test_a_key_among_further_flags_is_not_quoted(model: Path) -> None:
    error = refusal(model, DEFAULTS | {"engine_args": "--api-key=sk-1"}, CPU)
    assert error is not None and "'--api-key'" in str(error) and "sk-1" not in str(error)


def test_what_may_work_is_not_refused(model: Path, subtests: pytest.Subtests) -> None:
    busy = dataclasses.replace(GPUS, gpus=(Gpu("busy", 100, 83),))
    allowed: list[tuple[Environment, dict[str, Any]]] = [
        (GPUS, {}),
        (GPUS, TWO_MACHINES),
        (GPUS, {"engine_args": "--seed 3 --max-num-batched-tokens 512"}),
        (GPUS, {"tensor_parallel_size": 8, "distributed_executor_backend": "ray"}),
        (CPU, {"tensor_parallel_size": 2}),
        (CPU, {"pipeline_parallel_size": 2}),
        (GPUS, {"pipeline_parallel_size": 2, "enforce_eager": True}),
        (busy, {"gpu_memory_utilization": 0.8}),
        (busy, {"kv_cache_gib": 1.0}),
    ]
    for environment, options in allowed:
        with subtests.test(options=options):
            assert refused(model, environment, **options) == ("", "")


def test_a_model_that_does_not_tell_its_heads_is_not_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, tensor_parallel_size=2) == ("", "")
