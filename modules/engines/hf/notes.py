"""Notes on Transformers options that have no effect, or another one than their names suggest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Note
from modules.engines.hf.arguments import (
    Environment,
    ModelConfig,
    allows_bf16,
    gptqmodel_kernel,
    has_memory_limits,
    is_spread,
    must_stay_in_memory,
    rope_scaling,
    runs_on_cpu,
)
from modules.formats.remote_code import class_in_other_repository, hash_python_files
from modules.options.option import Value

Options = Mapping[str, Value]

_4BIT_DEFAULTS: Options = {"quant_type": "nf4", "compute_dtype": "float16", "use_double_quant": False}
"""Options that only count with load_in_4bit. At these values they need no note."""

NO_GPU: Words = {
    "en": "No effect: PyTorch finds no GPU.",
    "zh": "无效：PyTorch 未找到可用的 GPU。",
}
CPU_ONLY: Words = {
    "en": "No effect: cpu is on.",
    "zh": "无效：已勾选“仅用 CPU”。",
}
CPU_ANYWAY: Words = {
    "en": "No change: without a GPU the model runs on the CPU anyway.",
    "zh": "没有变化：没有 GPU 时本来就在 CPU 上运行。",
}


def notes(path: Path, options: Options, environment: Environment) -> Iterator[Note]:
    config = ModelConfig(path)
    yield from _quantization(config, options)
    yield from _dtype(config, options, environment)
    yield from _disk(config, options, environment)
    yield from _devices(config, options, environment)
    yield from _attention(options, environment)
    yield from _positions(config, options)
    yield from _gptq(config, options, environment)
    yield from _kernels(config, options, environment)
    if options["trust_remote_code"]:
        yield remote_code_note(path)
    yield from tokenizer_notes(options)


def tokenizer_notes(options: Options) -> Iterator[Note]:
    if options["no_use_fast"]:
        yield Note(
            "no_use_fast",
            {
                "en": "No effect: Transformers 5 has a single tokenizer per model, the fast one.",
                "zh": "无效：Transformers 5 中每个模型只有一种词符化器，即快速版本。",
            },
        )


def _quantization(config: ModelConfig, options: Options) -> Iterator[Note]:
    if config.quantization_method:
        for key in ("load_in_4bit", "load_in_8bit"):
            if options[key]:
                yield Note(
                    key,
                    {
                        "en": f"No effect: the model is already quantized ({config.quantization_method}).",
                        "zh": f"无效：模型已经是量化版本（{config.quantization_method}）。",
                    },
                )
    elif options["load_in_4bit"] and options["load_in_8bit"]:
        yield Note(
            "load_in_8bit",
            {"en": "Not used: load-in-4bit takes precedence.", "zh": "未使用：以“以 4 位量化加载”为准。"},
        )
    if not options["load_in_4bit"] or config.quantization_method:
        for key, usual in _4BIT_DEFAULTS.items():
            if options[key] != usual:
                yield Note(
                    key,
                    {
                        "en": "No effect without load-in-4bit.",
                        "zh": "无效：仅在“以 4 位量化加载”启用时生效。",
                    },
                )


def _dtype(config: ModelConfig, options: Options, environment: Environment) -> Iterator[Note]:
    method, on_cpu = config.quantization_method, runs_on_cpu(options, environment.gpus)
    selectable = allows_bf16(options, method, on_cpu)
    if options["bf16"] and not selectable:
        yield Note("bf16", {"en": "No effect on a quantized model.", "zh": "无效：该选项不适用于量化模型。"})
    elif options["bf16"] and options["cpu"]:
        yield Note(
            "bf16",
            {
                "en": "Not used: cpu loads in float32. Without a GPU, bf16 alone computes on the CPU in bfloat16.",
                "zh": "未使用：“仅用 CPU”以 float32 加载。没有 GPU 时，只勾选“bfloat16”即可在 CPU 上以 bfloat16 计算。",
            },
        )
    if options["cpu"] and not environment.gpus and (method if not selectable else not options["bf16"]):
        yield Note("cpu", CPU_ANYWAY)


def _disk(config: ModelConfig, options: Options, environment: Environment) -> Iterator[Note]:
    if must_stay_in_memory(options, config.quantization_method, runs_on_cpu(options, environment.gpus)):
        for key in (key for key in ("disk", "cpu_memory") if options[key]):
            yield Note(
                key,
                {
                    "en": "No effect: weights that bitsandbytes quantizes on the CPU cannot be offloaded to disk.",
                    "zh": "无效：bitsandbytes 在 CPU 上量化的权重无法卸载到磁盘。",
                },
            )


def disk_note(offloaded: int, parts: int, option: str = "cpu_memory") -> Note:
    """Make the note for a load that had to leave some of the model's parts on disk."""
    return Note(
        option,
        {
            "en": f"Very slow: {offloaded} of the model's {parts} parts stay on disk and are read again for every "
            "token.",
            "zh": f"速度很慢：模型的 {parts} 个部分中有 {offloaded} 个留在磁盘上，生成每个词符都要重新读取。",
        },
    )


def no_images_note(reason: str) -> Note:
    """Make the note for a vision model whose images cannot be read."""
    return Note(
        "images",
        {
            "en": f"Images are off: the image processor of this model cannot be used. {reason}",
            "zh": f"不支持图片：无法使用此模型的图片处理器。{reason}",
        },
    )


def gpu_notes(options: Options, environment: Environment) -> Iterator[Note]:
    """Yield notes on the options that distribute a model over GPUs by accelerate, in any loader."""
    reason = NO_GPU if not environment.gpus else CPU_ONLY if options.get("cpu") else None
    if reason is not None:
        for key in ("gpu_memory", "auto_devices"):
            if options[key]:
                yield Note(key, reason)
        return
    if options["auto_devices"] and (options["gpu_memory"] or options["cpu_memory"]):
        text: Words = {
            "en": "Not used: the memory limits set by hand take precedence.",
            "zh": "未使用：以手动设置的内存上限为准。",
        }
        yield Note("auto_devices", text)
    typed = len(str(options["gpu_memory"]).replace(",", " ").split())
    if typed > len(environment.gpus):
        yield Note(
            "gpu_memory",
            {
                "en": f"Only the first {len(environment.gpus)} sizes are used: there are no more GPUs.",
                "zh": f"仅使用前 {len(environment.gpus)} 项：没有更多的 GPU。",
            },
        )


def _devices(config: ModelConfig, options: Options, environment: Environment) -> Iterator[Note]:
    yield from gpu_notes(options, environment)
    if (
        not options["auto_devices"]
        or runs_on_cpu(options, environment.gpus)
        or has_memory_limits(options, on_cpu=False)
    ):
        return
    if is_spread({**options, "auto_devices": False}, config.quantization_method, on_cpu=False):
        yield Note(
            "auto_devices",
            {
                "en": "No change: with disk or bitsandbytes the devices are filled automatically anyway.",
                "zh": "没有变化：启用“卸载到磁盘”或 bitsandbytes 量化时本来就会自动分配设备。",
            },
        )


def _attention(options: Options, environment: Environment) -> Iterator[Note]:
    if not options["use_flash_attention_2"]:
        return
    if options["use_eager_attention"]:
        text: Words = {
            "en": "Not used: use_eager_attention takes precedence.",
            "zh": "未使用：以“使用 eager 注意力”为准。",
        }
    elif not environment.gpus:
        text = NO_GPU
    elif options["cpu"]:
        text = CPU_ONLY
    elif "flash_attn" not in environment.packages:
        text = {
            "en": "No effect: flash_attn is not installed. To install: pip install flash-attn",
            "zh": "无效：未安装 flash_attn。安装命令：pip install flash-attn",
        }
    else:
        return
    yield Note("use_flash_attention_2", text)


def _positions(config: ModelConfig, options: Options) -> Iterator[Note]:
    wanted = {"alpha_value": float(options["alpha_value"]) > 1, "rope_freq_base": float(options["rope_freq_base"]) > 0}
    wanted["compress_pos_emb"] = float(options["compress_pos_emb"]) > 1
    if config.lacks_rope:
        for key in (key for key, asked in wanted.items() if asked):
            yield Note(
                key,
                {
                    "en": "No effect: this model has no rotary position embeddings (RoPE).",
                    "zh": "无效：此模型不使用旋转位置编码（RoPE）。",
                },
            )
    elif kind := rope_scaling(config, options).replaces:
        yield Note(
            "compress_pos_emb",
            {
                "en": f"Replaces the model's own scaling ({kind}).",
                "zh": f"将替换模型自带的位置缩放方式（{kind}）。",
            },
        )


def _gptq(config: ModelConfig, options: Options, environment: Environment) -> Iterator[Note]:
    asked = [key for key in ("disable_exllama", "disable_exllamav2") if options[key]]
    for key in asked:
        if config.quantization_method != "gptq":
            yield Note(key, {"en": "No effect: not a GPTQ model.", "zh": "无效：这不是 GPTQ 模型。"})
        elif options["cpu"] or not environment.gpus:
            yield Note(
                key,
                {
                    "en": "No effect: ExLlama's kernels run on GPUs only.",
                    "zh": "无效：ExLlama 内核只能在 GPU 上运行。",
                },
            )
        elif len(asked) == 1:
            yield Note(
                key,
                {
                    "en": "Turns off both ExLlama kernels: gptqmodel offers them as one choice.",
                    "zh": "两个 ExLlama 内核会一并停用：gptqmodel 将它们作为同一项选择。",
                },
            )


def _kernels(config: ModelConfig, options: Options, environment: Environment) -> Iterator[Note]:
    kernel = gptqmodel_kernel(config, options, environment)
    if environment.lacks_nvcc and kernel:
        yield Note(
            "disable_exllama",
            {
                "en": f"A slower kernel is used ({kernel}), because nvcc is missing, which compiles the faster ones. "
                "Install the CUDA toolkit of PyTorch's CUDA version.",
                "zh": f"使用较慢的内核（{kernel}）：缺少编译快速内核的 nvcc。"
                "请安装与 PyTorch 的 CUDA 版本一致的 CUDA toolkit。",
            },
        )


def remote_code_note(folder: Path) -> Note:
    """List the Python files in `folder` that would run, each with the start of its SHA-256; or say why none would."""
    if elsewhere := class_in_other_repository(folder):
        text: Words = {
            "en": f"No effect: only code in the model's folder is run, and its config.json names {elsewhere}, of "
            "another repository.",
            "zh": f"无效：只运行模型文件夹内的代码，而其 config.json 指向另一个仓库的 {elsewhere}。",
        }
    elif code := hash_python_files(folder):
        listed = ", ".join(f"{name} (sha256 {sha[:12]})" for name, sha in code.items())
        text = {"en": f"Runs: {listed}.", "zh": f"将运行：{listed}。"}
    else:
        text = {
            "en": "No change: this model comes without code.",
            "zh": "没有变化：此模型没有附带代码。",
        }
    return Note("trust_remote_code", text)
