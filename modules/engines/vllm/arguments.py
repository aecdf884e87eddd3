"""Translate load options into the command `vllm serve` and its environment, without importing vLLM.

Source: `vllm serve --help` of vLLM 0.32; `tests/engines/vllm/test_parser.py` gives the flags to its own parser.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.events import Json
from modules.engines.hf.arguments import ModelConfig
from modules.engines.vllm.environment import Environment, find_openmp
from modules.formats.remote_code import class_in_other_repository
from modules.options.option import Value

COMMAND, ENVIRONMENT = "command", "environment"
SOCKET = "{socket}"
"""Stands for the path of the socket, which is made for each start."""
CPU_CACHE_GIB = 4.0
"""Size of the KV cache on a CPU unless one is set."""
AUTO, MP, RAY = "auto", "mp", "ray"

_STARTER = Path(__file__).parent / "start_vllm.py"
_GIB = 1 << 30

Options = Mapping[str, Value]

# By flag: the key of the option, and the value that stands for vLLM's own default.
_PLAIN: Mapping[str, tuple[str, Value]] = {
    "--tensor-parallel-size": ("tensor_parallel_size", 1),
    "--pipeline-parallel-size": ("pipeline_parallel_size", 1),
    "--data-parallel-size": ("data_parallel_size", 1),
    "--distributed-executor-backend": ("distributed_executor_backend", AUTO),
    "--max-model-len": ("max_model_len", 0),
    "--kv-cache-dtype": ("kv_cache_dtype", AUTO),
    "--quantization": ("quantization", AUTO),
    "--max-num-seqs": ("max_num_seqs", 0),
}


def arguments(path: Path, options: Options, environment: Environment) -> dict[str, Json]:
    """Return the command that serves the model at `path`, and the variables that are set for it."""
    command = [*program(options, environment), "serve", str(path), *_flags(path, options, environment)]
    return {COMMAND: command, ENVIRONMENT: _variables(options, environment)}


def program(options: Options, environment: Environment) -> list[str]:
    """Return the command of vLLM: that of `vllm_program`, else the installed packages, else a program in PATH.

    The packages are started by `start_vllm`, and named by their module where that is not needed.
    """
    if named := str(options["vllm_program"]):
        return [named]
    if environment.is_installed or not environment.program:
        return [sys.executable, "-P", str(_STARTER)]
    return [environment.program]


def is_own_installation(options: Options, environment: Environment) -> bool:
    """Whether the vLLM that runs is the one of our own packages, rather than a program of another environment."""
    return program(options, environment)[0] == sys.executable


def runs_on_cpu(options: Options, environment: Environment) -> bool:
    """Whether vLLM computes on the CPU: its build for CPUs does, and others are taken to where there is no GPU."""
    own_cpu_build = environment.is_cpu_build and is_own_installation(options, environment)
    return own_cpu_build or not environment.gpus


def machine_count(options: Options) -> int:
    """Return how many machines vLLM is started on by hand. Ray knows its machines itself."""
    return 1 if options["distributed_executor_backend"] == RAY else int(options["nnodes"])


def is_headless(options: Options) -> bool:
    """Whether this machine only computes for another one, which serves the model."""
    return machine_count(options) > 1 and int(options["node_rank"]) > 0


def world_size(options: Options) -> int:
    """Return the number of GPUs that all replicas take on all machines."""
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    tensor, pipeline, data = (int(options[key]) for key in sizes)
    return tensor * pipeline * data


def further_flags(options: Options) -> list[str]:
    """Return the words of `engine_args`. Raises ValueError for quotes that are not closed."""
    return shlex.split(str(options["engine_args"]))


def cache_bytes(options: Options, on_cpu: bool) -> int:
    """Return the size that is set for the KV cache of each process; 0 if vLLM decides it."""
    gib = float(options["kv_cache_gib"]) or (CPU_CACHE_GIB if on_cpu else 0.0)
    return int(gib * _GIB)


def _flags(path: Path, options: Options, environment: Environment) -> Iterator[str]:
    if is_headless(options):
        yield "--headless"
    else:
        # The folder of a model may have a name that looks like a flag.
        yield from ("--uds", SOCKET, f"--served-model-name={path.name}", "--uvicorn-log-level", "warning")
        yield "--enable-prompt-tokens-details"  # how many were found in the cache
        yield "--enable-tokenizer-info-endpoint"  # the chat template and the special tokens
    for flag, (key, default) in _PLAIN.items():
        if options[key] != default:
            yield from (flag, str(options[key]))
    yield from _memory_flags(options, environment)
    yield from _machine_flags(options)
    yield from _lora_flags(options)
    if options["enforce_eager"]:
        yield "--enforce-eager"
    if options["trust_remote_code"] and not class_in_other_repository(path):
        yield "--trust-remote-code"
    if int(options["data_parallel_size"]) > 1 and not is_headless(options):
        yield from ("--api-server-count", "1")  # several would not share LoRAs that are loaded later
    yield from further_flags(options)


def _memory_flags(options: Options, environment: Environment) -> Iterator[str]:
    on_cpu = runs_on_cpu(options, environment)
    if size := cache_bytes(options, on_cpu):
        yield from ("--kv-cache-memory-bytes", str(size))
    if not on_cpu:
        yield from ("--gpu-memory-utilization", f"{float(options['gpu_memory_utilization']):g}")


def _machine_flags(options: Options) -> Iterator[str]:
    if machine_count(options) > 1:
        yield from ("--nnodes", str(options["nnodes"]), "--node-rank", str(options["node_rank"]))
        yield from ("--master-addr", str(options["master_addr"]), "--master-port", str(options["master_port"]))


def _lora_flags(options: Options) -> Iterator[str]:
    if options["enable_lora"]:
        yield "--enable-lora"
        yield from ("--max-loras", str(options["max_loras"]), "--max-lora-rank", str(options["max_lora_rank"]))


def _variables(options: Options, environment: Environment) -> dict[str, str]:
    """Return the variables: no usage reports, no downloads, LoRAs by requests of ours."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    if options["enable_lora"]:
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if runs_on_cpu(options, environment) and (library := _openmp(options, environment)):
        variables["LD_PRELOAD"] = library
    return variables


def _openmp(options: Options, environment: Environment) -> str:
    own = is_own_installation(options, environment)
    return find_openmp(Path(sys.prefix) if own else Path(program(options, environment)[0]).parent.parent)


def context_length(path: Path, options: Options) -> int:
    """Return `max_model_len` or, if it is 0, the model's own."""
    return int(options["max_model_len"]) or ModelConfig(path).max_context


def child_environment(variables: Mapping[str, str], own_installation: bool) -> dict[str, str]:
    """Return the environment of the process. Another installation must not see our packages.

    A key that vLLM would ask for is left out: only we can open its socket, and we send none.
    """
    inherited = {key: value for key, value in os.environ.items() if own_installation or key != "PYTHONPATH"}
    inherited.pop("VLLM_API_KEY", None)
    preload = ":".join(filter(None, (variables.get("LD_PRELOAD"), os.environ.get("LD_PRELOAD"))))
    return inherited | dict(variables) | ({"LD_PRELOAD": preload} if preload else {})
