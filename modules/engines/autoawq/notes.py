"""What is said of each AutoAWQ option that does not do here what its name promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Note
from modules.engines.autoawq.arguments import Plan
from modules.engines.hf.arguments import Machine
from modules.engines.hf.notes import of_gpus, of_own_code
from modules.engines.legacy.arguments import of_tokenizer, triton_wheel
from modules.options.option import Value


def notes(path: Path, options: Mapping[str, Value], machine: Machine) -> Iterator[Note]:
    plan = Plan(path, options, machine)
    yield from of_gpus(options, machine)
    yield from _context(plan)
    yield from _fusing(plan)
    yield from _kernels(plan)
    if options["trust_remote_code"]:
        yield of_own_code(path)
    yield from of_tokenizer(plan)


def _context(plan: Plan) -> Iterator[Note]:
    wanted = int(plan.options["max_seq_len"])
    if wanted > plan.about.own_context:
        yield Note(
            "max_seq_len",
            {
                "en": f"{plan.about.own_context} is used: this model knows no more, and AutoAWQ cannot stretch it.",
                "zh": f"实际为 {plan.about.own_context}：这是此模型的上限，AutoAWQ 无法扩展。",
            },
        )


_ONE_BY_ONE: Words = {
    "en": "Fused layers answer one request at a time, read every prompt from its beginning, and take no LoRA. "
    "Tick this for all that.",
    "zh": "融合层一次只能回答一个请求，每次都从头读取提示词，也不能使用 LoRA。如需这些功能，请勾选此项。",
}


def _fusing(plan: Plan) -> Iterator[Note]:
    ticked = bool(plan.options["no_inject_fused_attention"])
    why = _why_not_fused(plan)
    if plan.fused:
        yield Note("no_inject_fused_attention", _ONE_BY_ONE)
    elif why is not None and ticked:
        text: Words = {"en": f"Changes nothing: {why['en']}", "zh": f"没有变化：{why['zh']}"}
        yield Note("no_inject_fused_attention", text)
    elif why is not None and not plan.on_cpu:
        text = {"en": f"Fused layers are not used: {why['en']}", "zh": f"未使用融合层：{why['zh']}"}
        yield Note("no_inject_fused_attention", text)


def _why_not_fused(plan: Plan) -> Words | None:
    """Whatever is ticked."""
    if plan.on_cpu:
        return {"en": "on the CPU there are no fused layers.", "zh": "在 CPU 上没有融合层。"}
    if plan.missing_for_fusing:
        names = ", ".join(plan.missing_for_fusing)
        return {
            "en": f"they need {names}, not installed or not for this PyTorch.",
            "zh": f"融合层需要 {names}，但未安装，或与当前 PyTorch 不匹配。",
        }
    if plan.spreads:
        return {
            "en": "they need the whole model on one GPU, without limits of memory.",
            "zh": "融合层要求整个模型位于同一个 GPU 上，且不限制内存。",
        }
    return None


def _kernels(plan: Plan) -> Iterator[Note]:
    """Beside the option that stands for how it is computed, though no option changes it."""
    if plan.why_not is not None:
        yield Note("no_inject_fused_attention", plan.why_not)
    elif not plan.on_cpu and plan.version == "gemm" and not {"awq_ext", "triton"} & plan.machine.packages:
        line = f"pip install {triton_wheel()}"
        yield Note(
            "no_inject_fused_attention",
            {
                "en": "Very slow: neither triton nor autoawq-kernels is installed for this PyTorch, so all weights are "
                f"unpacked for every token. To install: {line}",
                "zh": "速度很慢：未安装与当前 PyTorch 匹配的 triton 或 autoawq-kernels，生成每个词符都要解开全部权重。"
                f"安装命令：{line}",
            },
        )


def none_fused() -> Note:
    """Said once it is loaded."""
    return Note(
        "no_inject_fused_attention",
        {
            "en": "Fused layers are not used: AutoAWQ has none for this kind of model.",
            "zh": "未使用融合层：AutoAWQ 没有适用于此类模型的融合层。",
        },
    )
