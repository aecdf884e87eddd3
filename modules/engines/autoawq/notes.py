"""Notes on AutoAWQ options that have no effect, or another one than their names suggest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Note
from modules.engines.autoawq.arguments import Plan
from modules.engines.hf.arguments import Environment
from modules.engines.hf.notes import gpu_notes, remote_code_note
from modules.engines.legacy.arguments import tokenizer_notes, triton_distribution
from modules.options.option import Value


def notes(path: Path, options: Mapping[str, Value], environment: Environment) -> Iterator[Note]:
    plan = Plan(path, options, environment)
    yield from gpu_notes(options, environment)
    yield from _context(plan)
    yield from _fusion(plan)
    yield from _kernels(plan)
    if options["trust_remote_code"]:
        yield remote_code_note(path)
    yield from tokenizer_notes(plan)


def _context(plan: Plan) -> Iterator[Note]:
    wanted = int(plan.options["max_seq_len"])
    if wanted > plan.model_config.max_context:
        yield Note(
            "max_seq_len",
            {
                "en": f"{plan.model_config.max_context} is used: the model's maximum, which AutoAWQ cannot extend.",
                "zh": f"实际为 {plan.model_config.max_context}：这是此模型的上限，AutoAWQ 无法扩展。",
            },
        )


_FUSION_LIMITS: Words = {
    "en": "Fused layers process one request at a time, prefill every prompt from its beginning, and cannot use LoRAs. "
    "Turn this on to avoid these limits.",
    "zh": "使用融合层时一次只能处理一个请求，每次都要从头处理提示词，也不能使用 LoRA。勾选此项可解除这些限制。",
}


def _fusion(plan: Plan) -> Iterator[Note]:
    turned_off = bool(plan.options["no_inject_fused_attention"])
    why = _why_not_fusible(plan)
    if plan.fused:
        yield Note("no_inject_fused_attention", _FUSION_LIMITS)
    elif why is not None and turned_off:
        text: Words = {"en": f"No change: {why['en']}", "zh": f"没有变化：{why['zh']}"}
        yield Note("no_inject_fused_attention", text)
    elif why is not None and not plan.on_cpu:
        text = {"en": f"Fused layers are not used: {why['en']}", "zh": f"未使用融合层：{why['zh']}"}
        yield Note("no_inject_fused_attention", text)


def _why_not_fusible(plan: Plan) -> Words | None:
    """Return why layers cannot be fused, whatever the option says."""
    if plan.on_cpu:
        return {"en": "fused layers run on GPUs only.", "zh": "融合层只能在 GPU 上运行。"}
    if plan.missing_for_fusion:
        names = ", ".join(plan.missing_for_fusion)
        return {
            "en": f"they need {names}: not installed, or not built for this PyTorch.",
            "zh": f"融合层需要 {names}，但未安装，或与当前 PyTorch 不匹配。",
        }
    if plan.spread:
        return {
            "en": "they need the whole model on one GPU, without memory limits.",
            "zh": "融合层要求整个模型位于同一个 GPU 上，且不限制内存。",
        }
    if plan.scales_rope:
        return {
            "en": "they cannot scale rotary position embeddings (RoPE), and this model does.",
            "zh": "此模型对旋转位置编码（RoPE）进行缩放，而融合层不支持。",
        }
    return None


def _kernels(plan: Plan) -> Iterator[Note]:
    """Yield notes on kernels at the option closest to them, though no option changes them."""
    if plan.incompatibility is not None:
        yield Note("no_inject_fused_attention", plan.incompatibility)
    elif not plan.on_cpu and plan.version == "gemm" and not {"awq_ext", "triton"} & plan.environment.packages:
        line = f"pip install {triton_distribution()}"
        yield Note(
            "no_inject_fused_attention",
            {
                "en": "Very slow: neither triton nor autoawq-kernels is installed for this PyTorch, so all weights are "
                f"unpacked for every token. To install Triton: {line}",
                "zh": "速度很慢：未安装与当前 PyTorch 匹配的 triton 或 autoawq-kernels，生成每个词符都要解包全部权重。"
                f"安装 Triton 的命令：{line}",
            },
        )


def no_fused_layers_note() -> Note:
    """Make the note for a loaded model whose layers AutoAWQ did not fuse."""
    return Note(
        "no_inject_fused_attention",
        {
            "en": "Fused layers are not used: AutoAWQ has none for this architecture.",
            "zh": "未使用融合层：AutoAWQ 没有适用于此架构的融合层。",
        },
    )
