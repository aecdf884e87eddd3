"""The commands that other machines run, and what is checked before vLLM is started."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path

from modules.core.errors import OptionError
from modules.engines.hf.arguments import ModelConfig
from modules.engines.vllm.arguments import (
    RAY,
    cache_bytes,
    further_flags,
    is_headless,
    machine_count,
    runs_on_cpu,
    world_size,
)
from modules.engines.vllm.environment import Environment
from modules.options.load_vllm import VLLM
from modules.options.option import Value

Options = Mapping[str, Value]

RAY_PORT = 6379
_THIS_MACHINE_ONLY = ("node_rank", "vllm_program")
_RAY_HEAD = "HEAD"
_OWN_FLAGS = (
    *("--uds", "--host", "--port", "--api-key", "--served-model-name", "--headless", "--root-path"),
    *("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs"),
)
"""Flags of vLLM with which its client here would not find it, or be refused."""
_HEAD_KEYS = ("num_attention_heads", "n_head", "num_heads", "n_heads")


def lines_for_others(path: Path, options: Options) -> list[str]:
    """Return the commands to run on the other machines before or while the model loads; empty for one machine.

    Ray's are those that start the cluster, which must run before the load.
    """
    if options["distributed_executor_backend"] == RAY:
        head = str(options["master_addr"]) or _RAY_HEAD
        return [f"ray start --head --port={RAY_PORT}", f"ray start --address={head}:{RAY_PORT}"]
    if machine_count(options) == 1 or is_headless(options):
        return []
    changed = [
        word
        for option in VLLM
        if options[option.key] != option.default and option.key not in _THIS_MACHINE_ONLY
        for word in _words(option.flag, options[option.key])
    ]
    start = ["./start.sh", "--loader", "vLLM", *_words("model", path.name)]
    return [shlex.join([*start, *changed, "--node-rank", str(rank)]) for rank in range(1, machine_count(options))]


def _words(flag: str, value: Value) -> list[str]:
    if isinstance(value, bool):
        return [f"--{flag}"]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return [f"--{flag}={text}"] if text.startswith("-") else [f"--{flag}", text]


def refusal(path: Path, options: Options, environment: Environment) -> OptionError | None:
    """Return the option with which vLLM would not start; None if nothing is known against any.

    It takes vLLM half a minute to find out the same.
    """
    return lasting_refusal(path, options, environment) or _memory_refusal(options, environment)


def lasting_refusal(path: Path, options: Options, environment: Environment) -> OptionError | None:
    """Return the option with which vLLM would not start even if all memory were free; None if none is known."""
    return (
        _flags_refusal(options)
        or _machines_refusal(options)
        or _heads_refusal(path, options)
        or _eager_refusal(options, environment)
        or _gpus_refusal(options, environment)
    )


def _refused(options: Options, key: str, en: str, zh: str) -> OptionError:
    return OptionError(key, options[key], {"en": en, "zh": zh})


def _flags_refusal(options: Options) -> OptionError | None:
    try:
        words = further_flags(options)
    except ValueError:
        return _refused(options, "engine_args", "flags with closed quotes", "引号成对的参数")
    names = (word.partition("=")[0].replace("_", "-") for word in words)
    if name := next((name for name in names if name in _OWN_FLAGS), ""):
        en, zh = (
            "other flags, as this one decides how this program reaches vLLM",
            "其他参数（它决定本程序如何连接 vLLM）",
        )
        return OptionError("engine_args", name, {"en": en, "zh": zh})  # without its value, which may be a key
    return None


def _machines_refusal(options: Options) -> OptionError | None:
    count, size = machine_count(options), world_size(options)
    if count == 1:
        return None
    if not options["master_addr"]:
        return _refused(
            options, "master_addr", "the address by which the others reach machine 0", "其他机器连接 0 号机器的地址"
        )
    if int(options["node_rank"]) >= count:
        numbers = f"0 to {count - 1}, as there are {count} machines", f" 0 到 {count - 1}（共 {count} 台机器）"
        return _refused(options, "node_rank", *numbers)
    if size % count:
        return _refused(
            options,
            "nnodes",
            f"a divisor of {size}, the number of GPUs (GPUs for each layer × stages × replicas)",
            f"能整除 GPU 总数 {size}（张量并行 × 流水线并行 × 副本数）的值",
        )
    return None


def _heads_refusal(path: Path, options: Options) -> OptionError | None:
    size, heads = int(options["tensor_parallel_size"]), attention_heads(path)
    if not heads or heads % size == 0:
        return None
    return _refused(
        options,
        "tensor_parallel_size",
        f"a divisor of the model's {heads} attention heads",
        f"能整除此模型注意力头数 {heads} 的值",
    )


def _eager_refusal(options: Options, environment: Environment) -> OptionError | None:
    """Refuse what fails in vLLM 0.32 at the first token: its stages lack buffers that only the warm-up makes."""
    if int(options["pipeline_parallel_size"]) == 1 or not runs_on_cpu(options, environment):
        return None
    if not options["enforce_eager"]:
        return None
    return _refused(
        options,
        "enforce_eager",
        "False, as vLLM cannot compute pipeline stages in eager mode on a CPU",
        " False（在 CPU 上，vLLM 的流水线并行不支持不编译的模式）",
    )


def attention_heads(path: Path) -> int:
    """Return the number of attention heads; 0 if config.json does not say it."""
    text = ModelConfig(path).text
    found = (text.get(key) for key in _HEAD_KEYS)
    return next((heads for heads in found if isinstance(heads, int) and heads > 0), 0)


def _gpus_refusal(options: Options, environment: Environment) -> OptionError | None:
    if not _computes_on_own_gpus(options, environment):
        return None
    needed, present = world_size(options) // machine_count(options), len(environment.gpus)
    if needed > present:
        sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
        return _refused(
            options,
            max(sizes, key=lambda key: int(options[key])),
            f"a value with which {present} GPUs suffice on this machine, not {needed}",
            f"本机 {present} 个 GPU 够用的值（目前需要 {needed} 个）",
        )
    return None


def _computes_on_own_gpus(options: Options, environment: Environment) -> bool:
    return not runs_on_cpu(options, environment) and options["distributed_executor_backend"] != RAY


def _memory_refusal(options: Options, environment: Environment) -> OptionError | None:
    """Refuse a share that is not free on some GPU: vLLM does not start then, unless the size of its cache is set."""
    if cache_bytes(options, on_cpu=False) or not _computes_on_own_gpus(options, environment):
        return None
    gpus = environment.gpus[: world_size(options) // machine_count(options)]
    shares = {gpu.free / gpu.total: (number, gpu.name) for number, gpu in enumerate(gpus) if gpu.total}
    free = min(shares, default=1.0)
    if free >= float(options["gpu_memory_utilization"]):
        return None
    (number, name), percent = shares[free], math.floor(100 * free)
    return _refused(
        options,
        "gpu_memory_utilization",
        f"at most {percent / 100:g}, as {percent} % of GPU {number} ({name}) is free",
        f"不超过 {percent / 100:g} 的值，GPU {number}（{name}）只剩 {percent}% 的显存",
    )
