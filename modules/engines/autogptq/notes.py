"""What is said of each AutoGPTQ option that does not do here what its name promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Note
from modules.engines.autogptq.arguments import EXLLAMA, EXLLAMAV2, Plan
from modules.engines.hf.arguments import Machine
from modules.engines.hf.notes import CPU_ANYWAY, CPU_ONLY, NO_GPU, of_gpus, of_own_code
from modules.engines.legacy.arguments import of_tokenizer, triton_wheel
from modules.options.option import Value

_KNOWN_BITS = (2, 3, 4, 8)

_NOT_FUSED: Mapping[str, Words] = {
    "architecture": {
        "en": "auto-gptq's fused attention fits models of the Llama type only",
        "zh": "auto-gptq 的融合注意力只适用于 Llama 类模型",
    },
    "grouped": {
        "en": "auto-gptq's fused attention fails on models in which several heads share keys and values, as here",
        "zh": "auto-gptq 的融合注意力不支持多个注意力头共用键值的模型，而此模型正是如此",
    },
    "width": {
        "en": "auto-gptq's fused attention wants heads that together are as wide as the model",
        "zh": "auto-gptq 的融合注意力要求各注意力头的总宽度等于模型宽度",
    },
    "exllama": {
        "en": "with act-order, ExLlama's kernel cannot have fused attention; ExLlamaV2's can",
        "zh": "对 act-order 模型，ExLlama 内核不支持融合注意力，ExLlamaV2 内核则支持",
    },
    "disk": {
        "en": "parts that stay on disk cannot be fused",
        "zh": "留在磁盘上的部分无法融合",
    },
}
_NOT_ALL_ON_GPU: Words = {
    "en": "No effect: ExLlama's kernels are not used, as a part of the model will not be on a GPU.",
    "zh": "无效：模型有一部分不在 GPU 上，因此不使用 ExLlama 内核。",
}
_UNFIT: Words = {
    "en": "No effect: the kernel that it is for does not fit the installed PyTorch.",
    "zh": "无效：它所针对的内核与已安装的 PyTorch 不匹配。",
}


def notes(path: Path, options: Mapping[str, Value], machine: Machine) -> Iterator[Note]:
    plan = Plan(path, options, machine)
    yield from _quantisation(plan)
    yield from _devices(plan)
    yield from _unpacked(plan)
    yield from _triton(plan)
    yield from _fused(plan)
    yield from _kernels(plan)
    if options["trust_remote_code"]:
        yield of_own_code(path)
    yield from of_tokenizer(plan)


def on_disk(parts: int, of: int) -> Note:
    """Said once a load has shown that memory does not do."""
    return Note(
        "disk",
        {
            "en": f"{parts} of the model's {of} parts stay on disk and are read again for every token: very slow.",
            "zh": f"模型的 {of} 个部分中有 {parts} 个留在磁盘上，生成每个词符都要重新读取，速度很慢。",
        },
    )


def _quantisation(plan: Plan) -> Iterator[Note]:
    for key, typed, said in (
        ("wbits", int(plan.options["wbits"]) or None, plan.said_bits),
        ("groupsize", plan.group if plan.options["groupsize"] != -1 else None, plan.said_group),
    ):
        if typed and said and typed != said:
            yield Note(
                key,
                {
                    "en": f"The model's own files say {said}; the value set here is used.",
                    "zh": f"模型自带文件中的值为 {said}，将以此处设置的值为准。",
                },
            )
    if plan.act_order and not plan.options["desc_act"]:
        yield Note(
            "desc_act",
            {
                "en": "No effect: it is on, as the model's own files say so.",
                "zh": "无效：模型自带文件指明了 act-order，因此保持启用。",
            },
        )
    if plan.bits not in _KNOWN_BITS:
        yield Note(
            "wbits",
            {"en": "auto-gptq knows 2, 3, 4 and 8 bits.", "zh": "auto-gptq 支持 2、3、4 和 8 位。"},
        )
    elif plan.on_cpu and not plan.quick:
        yield Note(
            "wbits",
            {
                "en": "Slow: the CPU has a kernel for 4 and 8 bits only; these weights are unpacked for each token.",
                "zh": "速度慢：CPU 上只有 4 位和 8 位的内核，生成每个词符都要解包这些权重。",
            },
        )


def _devices(plan: Plan) -> Iterator[Note]:
    yield from of_gpus(plan.options, plan.machine)
    if plan.options["cpu"] and not plan.machine.gpus:
        yield Note("cpu", CPU_ANYWAY)
    if plan.options["disk"] and not plan.spreads:
        text = {
            "en": "No effect: nothing goes to disk unless cpu-memory, gpu-memory or auto-devices limits the memory.",
            "zh": "无效：只有用“CPU内存”“GPU内存”或“自动分配设备”限制了内存，才会写入磁盘。",
        }
        yield Note("disk", text)


def _unpacked(plan: Plan) -> Iterator[Note]:
    """Beside the option that helps, where one does."""
    if not plan.unpacks:
        return
    advice: Words = {"en": "", "zh": ""}
    if plan.suits_triton and plan.has_triton:
        advice = {"en": " Tick this: Triton's kernels fit.", "zh": "请勾选此项：Triton 内核可用。"}
    elif plan.suits_triton:
        line = f"pip install {triton_wheel()}"
        advice = {
            "en": f" Triton's kernels would: {line}, then tick this.",
            "zh": f"可改用 Triton 内核：先运行 {line}，再勾选此项。",
        }
    yield Note(
        "triton",
        {
            "en": "Slow: auto-gptq has no kernels for CUDA that fit the installed PyTorch, so weights are unpacked for "
            f"each token.{advice['en']}",
            "zh": "速度慢：auto-gptq 没有与已安装的 PyTorch 匹配的 CUDA 内核，生成每个词符都要解包权重。"
            f"{advice['zh']}",
        },
    )


def _triton(plan: Plan) -> Iterator[Note]:
    if not plan.options["triton"] or plan.triton:
        return
    if plan.on_cpu:
        text = CPU_ONLY if plan.machine.gpus else NO_GPU
    elif not plan.has_triton:
        text = {"en": "No effect: not installed: triton.", "zh": "无效：未安装 triton。"}
    else:
        text = {"en": "No effect: its kernels take 2, 4 or 8 bits.", "zh": "无效：其内核只支持 2、4 和 8 位。"}
    yield Note("triton", text)


def _fused(plan: Plan) -> Iterator[Note]:
    if why := plan.why_no_fused_attention:
        yield _not_fused(plan, "no_inject_fused_attention", why)
    if plan.options["no_inject_fused_mlp"] and not plan.triton:
        text = {"en": "Changes nothing: only Triton has a fused MLP.", "zh": "没有变化：只有 Triton 提供融合 MLP。"}
        yield Note("no_inject_fused_mlp", text)
    elif plan.options["no_inject_fused_mlp"] and not plan.knows_mlp:
        text = {
            "en": "Changes nothing: the fused MLP fits models of the Llama type only.",
            "zh": "没有变化：融合 MLP 只适用于 Llama 类模型。",
        }
        yield Note("no_inject_fused_mlp", text)
    elif plan.triton and plan.knows_mlp and plan.may_leave_on_disk:
        yield _not_fused(plan, "no_inject_fused_mlp", "disk")


def _not_fused(plan: Plan, key: str, why: str) -> Note:
    words = _NOT_FUSED[why]
    ticked = plan.options[key]
    begin = {"en": "Changes nothing: ", "zh": "没有变化："} if ticked else {"en": "Not fused: ", "zh": "未融合："}
    return Note(key, {"en": f"{begin['en']}{words['en']}.", "zh": f"{begin['zh']}{words['zh']}。"})


def _kernels(plan: Plan) -> Iterator[Note]:
    options, (_, second) = plan.options, plan.exllamas
    for key, kernel in (("disable_exllama", EXLLAMA), ("disable_exllamav2", EXLLAMAV2)):
        if not options[key]:
            continue
        if why := _why_no_exllama(plan, kernel):
            yield Note(key, why)
        elif key == "disable_exllama" and second:
            text = {"en": "Changes nothing: ExLlamaV2's goes first.", "zh": "没有变化：以 ExLlamaV2 内核为先。"}
            yield Note(key, text)
    if options["no_use_cuda_fp16"] and not plan.cuda_kernel:
        other = {
            "en": "No effect: it is for auto-gptq's plain CUDA kernel of 2, 3 or 4 bits, and another is used.",
            "zh": "无效：它只影响 auto-gptq 普通的 2、3、4 位 CUDA 内核，而此处使用的是其他内核。",
        }
        on_gpu = _UNFIT if plan.unpacks else other
        yield Note("no_use_cuda_fp16", (CPU_ONLY if plan.machine.gpus else NO_GPU) if plan.on_cpu else on_gpu)


def _why_no_exllama(plan: Plan, kernel: str) -> Words | None:
    if plan.on_cpu:
        return CPU_ONLY if plan.machine.gpus else NO_GPU
    if plan.triton:
        return {"en": "No effect: Triton's kernels are used.", "zh": "无效：使用的是 Triton 内核。"}
    if plan.bits != 4:
        return {"en": "No effect: ExLlama's kernels take 4 bits only.", "zh": "无效：ExLlama 内核只支持 4 位。"}
    if plan.leaves_gpu:
        return _NOT_ALL_ON_GPU
    return None if kernel in plan.machine.packages else _UNFIT
