"""Notes on AutoGPTQ options that have no effect, or another one than their names suggest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Note
from modules.engines.autogptq.arguments import EXLLAMA, EXLLAMAV2, Plan
from modules.engines.hf.arguments import Environment
from modules.engines.hf.notes import CPU_ANYWAY, CPU_ONLY, NO_GPU, gpu_notes, remote_code_note
from modules.engines.legacy.arguments import tokenizer_notes, triton_distribution
from modules.options.option import Value

_SUPPORTED_BITS = (2, 3, 4, 8)

_FUSION_OBSTACLES: Mapping[str, Words] = {
    "architecture": {
        "en": "auto-gptq's fused attention supports Llama models only",
        "zh": "auto-gptq 的融合注意力只适用于 Llama 类模型",
    },
    "grouped": {
        "en": "auto-gptq's fused attention does not support grouped-query attention, which this model has",
        "zh": "auto-gptq 的融合注意力不支持分组查询注意力（GQA），而此模型使用 GQA",
    },
    "width": {
        "en": "auto-gptq's fused attention needs heads that together are as wide as the model",
        "zh": "auto-gptq 的融合注意力要求各注意力头的总宽度等于模型宽度",
    },
    "exllama": {
        "en": "with act-order, ExLlama's kernel does not support fused attention; ExLlamaV2's does",
        "zh": "对 act-order 模型，ExLlama 内核不支持融合注意力，ExLlamaV2 内核则支持",
    },
    "disk": {
        "en": "parts that are offloaded to disk cannot be fused",
        "zh": "卸载到磁盘的部分无法融合",
    },
}
_NOT_ALL_ON_GPU: Words = {
    "en": "No effect: ExLlama's kernels are not used, because a part of the model will not be on a GPU.",
    "zh": "无效：模型有一部分不在 GPU 上，因此不使用 ExLlama 内核。",
}
_KERNEL_MISMATCH: Words = {
    "en": "No effect: the kernel it concerns does not match the installed PyTorch.",
    "zh": "无效：相应的内核与已安装的 PyTorch 不匹配。",
}


def notes(path: Path, options: Mapping[str, Value], environment: Environment) -> Iterator[Note]:
    plan = Plan(path, options, environment)
    yield from _quantization(plan)
    yield from _devices(plan)
    yield from _unpacked(plan)
    yield from _triton(plan)
    yield from _fused(plan)
    yield from _kernels(plan)
    if options["trust_remote_code"]:
        yield remote_code_note(path)
    yield from tokenizer_notes(plan)


def _quantization(plan: Plan) -> Iterator[Note]:
    for key, typed, stated in (
        ("wbits", int(plan.options["wbits"]) or None, plan.file_bits),
        ("groupsize", plan.group_size if plan.options["groupsize"] != -1 else None, plan.file_group_size),
    ):
        if typed and stated and typed != stated:
            yield Note(
                key,
                {
                    "en": f"The model's own files state {stated}; the value set here takes precedence.",
                    "zh": f"模型自带文件中的值为 {stated}，以此处设置的值为准。",
                },
            )
    if plan.act_order and not plan.options["desc_act"]:
        yield Note(
            "desc_act",
            {
                "en": "No effect: the model's own files turn it on.",
                "zh": "无效：模型自带文件已指定 act-order，保持启用。",
            },
        )
    if plan.bits not in _SUPPORTED_BITS:
        yield Note(
            "wbits",
            {"en": "auto-gptq supports 2, 3, 4 and 8 bits.", "zh": "auto-gptq 支持 2、3、4 和 8 位。"},
        )
    elif plan.on_cpu and not plan.uses_cpu_kernel:
        yield Note(
            "wbits",
            {
                "en": "Slow: the CPU has kernels for 4 and 8 bits only, so these weights are unpacked for every token.",
                "zh": "速度慢：CPU 上只有 4 位和 8 位的内核，生成每个词符都要解包这些权重。",
            },
        )


def _devices(plan: Plan) -> Iterator[Note]:
    yield from gpu_notes(plan.options, plan.environment)
    if plan.options["cpu"] and not plan.environment.gpus:
        yield Note("cpu", CPU_ANYWAY)
    if plan.options["disk"] and not plan.spread:
        text = {
            "en": "No effect: layers are offloaded to disk only with cpu-memory, gpu-memory or auto-devices.",
            "zh": "无效：只有设置了“CPU 内存”“GPU 内存”或“自动分配设备”时，才会卸载到磁盘。",
        }
        yield Note("disk", text)


def _unpacked(plan: Plan) -> Iterator[Note]:
    """Yield the note that a GPU has no kernel for the model, at the option that would help."""
    if not plan.unpacks:
        return
    advice: Words = {"en": "", "zh": ""}
    if plan.supports_triton and plan.has_triton:
        advice = {"en": " Turn this on to use Triton's kernels.", "zh": "请勾选此项：Triton 内核可用。"}
    elif plan.supports_triton:
        line = f"pip install {triton_distribution()}"
        advice = {
            "en": f" To use Triton's kernels instead: {line}, then turn this on.",
            "zh": f"可改用 Triton 内核：先运行 {line}，再勾选此项。",
        }
    yield Note(
        "triton",
        {
            "en": "Slow: auto-gptq has no CUDA kernels that match the installed PyTorch, so weights are unpacked for "
            f"every token.{advice['en']}",
            "zh": "速度慢：auto-gptq 没有与已安装的 PyTorch 匹配的 CUDA 内核，生成每个词符都要解包权重。"
            f"{advice['zh']}",
        },
    )


def _triton(plan: Plan) -> Iterator[Note]:
    if not plan.options["triton"] or plan.triton:
        return
    if plan.on_cpu:
        text = CPU_ONLY if plan.environment.gpus else NO_GPU
    elif not plan.has_triton:
        text = {"en": "No effect: triton is not installed.", "zh": "无效：未安装 triton。"}
    else:
        text = {
            "en": "No effect: Triton's kernels support 2, 4 and 8 bits only.",
            "zh": "无效：Triton 内核只支持 2、4 和 8 位。",
        }
    yield Note("triton", text)


def _fused(plan: Plan) -> Iterator[Note]:
    if plan.incompatibility is not None:
        yield Note("no_inject_fused_attention", plan.incompatibility)
    elif why := plan.fused_attention_obstacle:
        yield _not_fused(plan, "no_inject_fused_attention", why)
    if plan.options["no_inject_fused_mlp"] and not plan.triton:
        text = {"en": "No change: only Triton has a fused MLP.", "zh": "没有变化：只有 Triton 提供融合 MLP。"}
        yield Note("no_inject_fused_mlp", text)
    elif plan.options["no_inject_fused_mlp"] and not plan.has_fusible_mlp:
        text = {
            "en": "No change: the fused MLP supports Llama models only.",
            "zh": "没有变化：融合 MLP 只适用于 Llama 类模型。",
        }
        yield Note("no_inject_fused_mlp", text)
    elif plan.triton and plan.has_fusible_mlp and plan.may_offload_to_disk:
        yield _not_fused(plan, "no_inject_fused_mlp", "disk")


def _not_fused(plan: Plan, key: str, why: str) -> Note:
    reason = _FUSION_OBSTACLES[why]
    turned_off = plan.options[key]
    prefix = {"en": "No change: ", "zh": "没有变化："} if turned_off else {"en": "Not fused: ", "zh": "未融合："}
    return Note(key, {"en": f"{prefix['en']}{reason['en']}.", "zh": f"{prefix['zh']}{reason['zh']}。"})


def _kernels(plan: Plan) -> Iterator[Note]:
    options, (_, uses_exllamav2) = plan.options, plan.exllama_kernels
    for key, kernel in (("disable_exllama", EXLLAMA), ("disable_exllamav2", EXLLAMAV2)):
        if not options[key]:
            continue
        if why := _why_no_exllama(plan, kernel):
            yield Note(key, why)
        elif key == "disable_exllama" and uses_exllamav2:
            text = {
                "en": "No change: ExLlamaV2's kernel takes precedence.",
                "zh": "没有变化：优先使用 ExLlamaV2 内核。",
            }
            yield Note(key, text)
    if options["no_use_cuda_fp16"] and not plan.cuda_kernel:
        other = {
            "en": "No effect: it concerns auto-gptq's plain CUDA kernel for 2, 3 and 4 bits; another kernel is used.",
            "zh": "无效：它只影响 auto-gptq 普通的 2、3、4 位 CUDA 内核，而此处使用的是其他内核。",
        }
        on_gpu = _KERNEL_MISMATCH if plan.unpacks else other
        yield Note("no_use_cuda_fp16", (CPU_ONLY if plan.environment.gpus else NO_GPU) if plan.on_cpu else on_gpu)


def _why_no_exllama(plan: Plan, kernel: str) -> Words | None:
    if plan.on_cpu:
        return CPU_ONLY if plan.environment.gpus else NO_GPU
    if plan.triton:
        return {"en": "No effect: Triton's kernels are used.", "zh": "无效：使用的是 Triton 内核。"}
    if plan.bits != 4:
        return {"en": "No effect: ExLlama's kernels support 4 bits only.", "zh": "无效：ExLlama 内核只支持 4 位。"}
    if plan.exceeds_gpus:
        return _NOT_ALL_ON_GPU
    return None if kernel in plan.environment.packages else _KERNEL_MISMATCH
