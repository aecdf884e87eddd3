"""What is said of each Transformers option that does not do here what its name promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Note
from modules.engines.hf.arguments import About, Machine, rope_of, stays_whole, takes_bf16, uncompiled_kernel
from modules.formats.remote_code import code_elsewhere, code_of
from modules.options.option import Value

_DEFAULTS: Mapping[str, Value] = {"quant_type": "nf4", "compute_dtype": "float16", "use_double_quant": False}
"""Of the options that belong to load_in_4bit; at these nothing need be said."""

NO_GPU: Words = {
    "en": "No effect: there is no GPU here that PyTorch could use.",
    "zh": "无效：此处没有 PyTorch 可用的 GPU。",
}
CPU_ONLY: Words = {
    "en": "No effect: cpu is ticked.",
    "zh": "无效：已勾选“CPU”。",
}
CPU_ANYWAY: Words = {
    "en": "Changes nothing: without a GPU the model is computed on the CPU anyway.",
    "zh": "没有变化：没有 GPU 时本来就用 CPU 计算。",
}


def notes(path: Path, options: Mapping[str, Value], machine: Machine) -> Iterator[Note]:
    about = About(path)
    yield from _quantisation(about, options)
    yield from _numbers(about, options, machine)
    yield from _disk(about, options, machine)
    yield from _devices(options, machine)
    yield from _attention(options, machine)
    yield from _positions(about, options)
    yield from _gptq(about, options, machine)
    yield from _kernels(about, options, machine)
    if options["trust_remote_code"]:
        yield of_own_code(path)
    yield from of_tokenizer(options)


def of_tokenizer(options: Mapping[str, Value]) -> Iterator[Note]:
    if options["no_use_fast"]:
        yield Note(
            "no_use_fast",
            {
                "en": "No effect: transformers 5 has only one tokenizer for each model, the fast one.",
                "zh": "无效：transformers 5 的每个模型只有一种词符化器，即快速版本。",
            },
        )


def _quantisation(about: About, options: Mapping[str, Value]) -> Iterator[Note]:
    if about.quantised:
        for key in ("load_in_4bit", "load_in_8bit"):
            if options[key]:
                yield Note(
                    key,
                    {
                        "en": f"No effect: the model's files are quantized already ({about.quantised}).",
                        "zh": f"无效：模型文件已量化（{about.quantised}）。",
                    },
                )
    elif options["load_in_4bit"] and options["load_in_8bit"]:
        yield Note("load_in_8bit", {"en": "Not used: load-in-4bit goes first.", "zh": "未使用：以“4位量化”为准。"})
    if not options["load_in_4bit"] or about.quantised:
        for key, usual in _DEFAULTS.items():
            if options[key] != usual:
                yield Note(
                    key,
                    {
                        "en": "No effect: it belongs to load-in-4bit, which is not in use.",
                        "zh": "无效：它属于“以4位量化加载”，而该选项未启用。",
                    },
                )


def _numbers(about: About, options: Mapping[str, Value], machine: Machine) -> Iterator[Note]:
    free = takes_bf16(about, options, machine)
    if options["bf16"] and not free:
        yield Note(
            "bf16", {"en": "No effect: the model is quantized.", "zh": "无效：模型已量化，该选项仅适用于不量化的情形。"}
        )
    elif options["bf16"] and options["cpu"]:
        yield Note(
            "bf16",
            {
                "en": "Not used: cpu loads in 32 bits. Without a GPU, bf16 alone computes on the CPU in bfloat16.",
                "zh": "未使用：“CPU”以 32 位精度加载。没有 GPU 时，只勾选 bf16 即可在 CPU 上以 bfloat16 计算。",
            },
        )
    if options["cpu"] and not machine.gpus and (about.quantised if not free else not options["bf16"]):
        yield Note("cpu", CPU_ANYWAY)


def _disk(about: About, options: Mapping[str, Value], machine: Machine) -> Iterator[Note]:
    if stays_whole(about, options, machine):
        for key in (key for key in ("disk", "cpu_memory") if options[key]):
            yield Note(
                key,
                {
                    "en": "No effect: what bitsandbytes quantizes on the CPU cannot be left on disk.",
                    "zh": "无效：bitsandbytes 在 CPU 上量化的模型无法存放到磁盘。",
                },
            )


def on_disk(parts: int, of: int) -> Note:
    """Said once a load has shown that memory does not do."""
    return Note(
        "cpu_memory",
        {
            "en": f"{parts} of the model's {of} parts stay on disk and are read again for every token: very slow.",
            "zh": f"模型的 {of} 个部分中有 {parts} 个留在磁盘上，生成每个词符都要重新读取，速度很慢。",
        },
    )


def of_gpus(options: Mapping[str, Value], machine: Machine) -> Iterator[Note]:
    """Of what shares a model out to GPUs, which every loader leaves to accelerate."""
    reason = NO_GPU if not machine.gpus else CPU_ONLY if options.get("cpu") else None
    if reason is not None:
        for key in ("gpu_memory", "auto_devices"):
            if options[key]:
                yield Note(key, reason)
        return
    if options["auto_devices"] and (options["gpu_memory"] or options["cpu_memory"]):
        text: Words = {"en": "Not used: memory set by hand goes first.", "zh": "未使用：以手动设置的内存上限为准。"}
        yield Note("auto_devices", text)
    given = len(str(options["gpu_memory"]).replace(",", " ").split())
    if given > len(machine.gpus):
        yield Note(
            "gpu_memory",
            {
                "en": f"Only the first {len(machine.gpus)} sizes are used: there are no more GPUs.",
                "zh": f"仅使用前 {len(machine.gpus)} 项：没有更多的 GPU。",
            },
        )


def _devices(options: Mapping[str, Value], machine: Machine) -> Iterator[Note]:
    yield from of_gpus(options, machine)
    by_hand = options["gpu_memory"] or options["cpu_memory"] or options["cpu"] or not machine.gpus
    if (
        options["auto_devices"]
        and not by_hand
        and (options["disk"] or options["load_in_4bit"] or options["load_in_8bit"])
    ):
        yield Note(
            "auto_devices",
            {
                "en": "Changes nothing: with disk or bitsandbytes the devices are filled automatically anyway.",
                "zh": "没有变化：启用“磁盘”或 bitsandbytes 量化时本来就会自动分配设备。",
            },
        )


def _attention(options: Mapping[str, Value], machine: Machine) -> Iterator[Note]:
    if not options["use_flash_attention_2"]:
        return
    if options["use_eager_attention"]:
        text: Words = {"en": "Not used: use_eager_attention goes first.", "zh": "未使用：以 use_eager_attention 为准。"}
    elif not machine.gpus:
        text = NO_GPU
    elif options["cpu"]:
        text = CPU_ONLY
    elif "flash_attn" not in machine.packages:
        text = {
            "en": "No effect: not installed: flash_attn. To install: pip install flash-attn",
            "zh": "无效：未安装 flash_attn。安装命令：pip install flash-attn",
        }
    else:
        return
    yield Note("use_flash_attention_2", text)


def _positions(about: About, options: Mapping[str, Value]) -> Iterator[Note]:
    wanted = {"alpha_value": float(options["alpha_value"]) > 1, "rope_freq_base": float(options["rope_freq_base"]) > 0}
    wanted["compress_pos_emb"] = float(options["compress_pos_emb"]) > 1
    if about.ropeless:
        for key in (key for key, asked in wanted.items() if asked):
            yield Note(
                key,
                {
                    "en": "No effect: this model's positions are not rotary.",
                    "zh": "无效：此模型不使用旋转位置编码。",
                },
            )
    elif kind := rope_of(about, options).replaces:
        yield Note(
            "compress_pos_emb",
            {
                "en": f"Takes the place of the model's own scaling ({kind}).",
                "zh": f"将取代模型自带的位置缩放方式（{kind}）。",
            },
        )


def _gptq(about: About, options: Mapping[str, Value], machine: Machine) -> Iterator[Note]:
    asked = [key for key in ("disable_exllama", "disable_exllamav2") if options[key]]
    for key in asked:
        if about.quantised != "gptq":
            yield Note(key, {"en": "No effect: this is no GPTQ model.", "zh": "无效：这不是 GPTQ 模型。"})
        elif options["cpu"] or not machine.gpus:
            yield Note(
                key,
                {
                    "en": "No effect: on the CPU there is another kernel than ExLlama's.",
                    "zh": "无效：在 CPU 上使用的并非 ExLlama 内核。",
                },
            )
        elif len(asked) == 1:
            yield Note(
                key,
                {
                    "en": "Both ExLlama kernels are given up: what is installed offers them as one choice.",
                    "zh": "两个 ExLlama 内核会一并停用：已安装的软件包将它们作为同一项选择。",
                },
            )


def _kernels(about: About, options: Mapping[str, Value], machine: Machine) -> Iterator[Note]:
    kernel = uncompiled_kernel(about, options, machine)
    if machine.lacks_nvcc and kernel:
        yield Note(
            "disable_exllama",
            {
                "en": f"Slower kernels are used ({kernel}): nvcc is missing, which compiles the faster ones. Install "
                "the CUDA toolkit of PyTorch's CUDA version.",
                "zh": f"使用较慢的内核（{kernel}）：缺少编译快速内核的 nvcc。"
                "请安装与 PyTorch 的 CUDA 版本一致的 CUDA toolkit。",
            },
        )


def of_own_code(folder: Path) -> Note:
    """The programs in `folder` that would run, each with the beginning of its SHA-256; or why none."""
    if elsewhere := code_elsewhere(folder):
        text: Words = {
            "en": f"No effect: only files beside the model are run, and it names {elsewhere}, of another repository.",
            "zh": f"无效：只运行模型旁边的文件，而它指向另一个仓库的 {elsewhere}。",
        }
    elif code := code_of(folder):
        listed = ", ".join(f"{name} (sha256 {sha[:12]})" for name, sha in code.items())
        text = {"en": f"What would run: {listed}.", "zh": f"将会运行：{listed}。"}
    else:
        text = {
            "en": "Changes nothing: there is no code beside this model.",
            "zh": "没有变化：此模型没有附带代码。",
        }
    return Note("trust_remote_code", text)
