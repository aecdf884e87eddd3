"""Notes on vLLM options that have no effect, and the commands for other machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Note
from modules.core.quotes import in_quotes
from modules.engines.hf.arguments import ModelConfig
from modules.engines.hf.notes import remote_code_note
from modules.engines.vllm.arguments import RAY, is_headless, runs_on_cpu, world_size
from modules.engines.vllm.environment import Environment
from modules.engines.vllm.machines import RAY_PORT, lines_for_others, refusal
from modules.options.option import Value

Options = Mapping[str, Value]

_BY_RAY: Words = {"en": "Not used: Ray knows its machines.", "zh": "未使用：机器由 Ray 管理。"}
_ON_CPU: Words = {"en": "No effect: vLLM runs on the CPU.", "zh": "无效：vLLM 在 CPU 上运行。"}


def notes(path: Path, options: Options, environment: Environment) -> Iterator[Note]:
    if (refused := refusal(path, options, environment)) is not None:
        value, expected = refused.value, refused.expected
        yield Note(
            refused.option,
            {
                "en": f"vLLM would not start with {value!r}; expected {expected['en']}.",
                "zh": f"取值{in_quotes(value)}时 vLLM 无法启动，应为{expected['zh']}。",
            },
        )
    yield from _machines(path, options)
    yield from _device(options, environment)
    if options["quantization"] != "auto" and (method := ModelConfig(path).quantization_method):
        yield Note(
            "quantization",
            {
                "en": f"The model is quantized already ({method}); vLLM refuses a method that does not match.",
                "zh": f"模型已经是量化版本（{method}）；指定其他方式时 vLLM 会拒绝加载。",
            },
        )
    if options["trust_remote_code"]:
        yield remote_code_note(path)


def _machines(path: Path, options: Options) -> Iterator[Note]:
    others = lines_for_others(path, options)
    if options["distributed_executor_backend"] == RAY:
        if int(options["nnodes"]) > 1 or int(options["node_rank"]):
            yield Note("nnodes", _BY_RAY)
        head, other = others
        yield Note(
            "distributed_executor_backend",
            {
                "en": "Ray must run before the load, with the same versions of Python, Ray and vLLM everywhere. "
                f"On this machine: {head} · on the others: {other} · port {RAY_PORT} has no login.",
                "zh": f"加载前须先启动 Ray，各机器的 Python、Ray 和 vLLM 版本须一致。本机：{head} · 其他机器：{other} "
                f"· 端口 {RAY_PORT} 没有登录保护。",
            },
        )
    elif is_headless(options):
        yield Note(
            "node_rank",
            {
                "en": f"This machine only computes for {options['master_addr']}, whose page serves the model.",
                "zh": f"本机只为 {options['master_addr']} 计算，模型由那台机器的页面提供。",
            },
        )
    for rank, line in enumerate([] if options["distributed_executor_backend"] == RAY else others, start=1):
        yield Note("nnodes", {"en": f"Run on machine {rank}: {line}", "zh": f"在 {rank} 号机器上执行：{line}"})


def _device(options: Options, environment: Environment) -> Iterator[Note]:
    if runs_on_cpu(options, environment):
        if options["gpu_memory_utilization"] != 0.92:
            yield Note("gpu_memory_utilization", _ON_CPU)
        if environment.gpus:
            yield Note(
                "vllm_program",
                {
                    "en": "The installed packages are those for CPUs. For the GPU, install vLLM in an environment of "
                    "its own and start with --vllm-program.",
                    "zh": "已安装的是 CPU 版本。要使用 GPU，请在单独的环境中安装 vLLM，并用 --vllm-program 启动。",
                },
            )
        if world_size(options) > 1:
            yield Note(
                "tensor_parallel_size",
                {
                    "en": "On a CPU each process needs cores of its own, and one more to schedule.",
                    "zh": "在 CPU 上，每个进程需要各自的核心，另需一个核心用于调度。",
                },
            )
    elif options["kv_cache_gib"] and options["gpu_memory_utilization"] != 0.92:
        yield Note(
            "gpu_memory_utilization",
            {"en": "Not used for the cache: its size is set.", "zh": "不用于缓存：已设置缓存大小。"},
        )
