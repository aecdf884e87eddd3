"""What is said of each option of ExLlamaV2 that does not do here what its name promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Note
from modules.engines.exllamav2.arguments import Here, context_length, experts, pages, uses_flash, uses_xformers
from modules.engines.hf import notes as hf_notes
from modules.engines.hf.arguments import About
from modules.options.option import Value


def notes(path: Path, options: Mapping[str, Value], here: Here) -> Iterator[Note]:
    """Of both loaders."""
    about = About(path)
    yield from _devices(options, here)
    yield from _attention(options, here)
    yield from _positions(path, about, options)
    if options["cache_4bit"] and options["cache_8bit"]:
        yield Note(
            "cache_8bit", {"en": "Not used: the 4-bit cache takes precedence.", "zh": "未使用：以 4 位缓存为准。"}
        )
    if options["num_experts_per_token"] and experts(about) <= 1:
        yield Note(
            "num_experts_per_token",
            {"en": "No effect: this model is no mixture of experts.", "zh": "无效：此模型不是混合专家模型。"},
        )
    if options["trust_remote_code"]:
        yield hf_notes.of_own_code(path)
    yield from hf_notes.of_tokenizer(options)


def batching_notes(path: Path, options: Mapping[str, Value], here: Here) -> Iterator[Note]:
    """Of ExLlamav2."""
    yield from notes(path, options, here)
    if options["cfg_cache"] and not pages(options, here):
        yield WITHOUT_PAGES


WITHOUT_PAGES = Note(
    "cfg_cache",
    {
        "en": "No effect: without flash-attention 2.5.7 this loader evaluates one sequence at a time, and CFG "
        "takes two. ExLlamav2_HF can.",
        "zh": "无效：没有 flash-attention 2.5.7 时，此加载器一次只能计算一个序列，而 CFG 需要两个。"
        "可改用 ExLlamav2_HF。",
    },
)
"""To be said of a model that turns out to be so, too."""


def _devices(options: Mapping[str, Value], here: Here) -> Iterator[Note]:
    given = len(str(options["gpu_split"]).split(","))
    if options["gpu_split"] and options["autosplit"]:
        yield Note("gpu_split", {"en": "Not used: autosplit goes first.", "zh": "未使用：以“自动分割”为准。"})
    elif options["gpu_split"] and here.gpus and given > here.gpus:
        yield Note(
            "gpu_split",
            {
                "en": f"More sizes than GPUs ({here.gpus}): what the first ones do not hold cannot be loaded.",
                "zh": f"给出的项数多于 GPU 数（{here.gpus}）：现有 GPU 放不下时无法加载。",
            },
        )


_NOT_INSTALLED: Words = {
    "en": "Changes nothing: it is not installed, or does not run on the GPUs here.",
    "zh": "没有变化：尚未安装，或无法在此处的 GPU 上运行。",
}


def _attention(options: Mapping[str, Value], here: Here) -> Iterator[Note]:
    if options["no_flash_attn"] and not here.flash:
        yield Note("no_flash_attn", _NOT_INSTALLED)
    if options["no_xformers"] and not here.xformers:
        yield Note("no_xformers", _NOT_INSTALLED)
    elif options["no_xformers"] and uses_flash(options, here):
        yield Note(
            "no_xformers",
            {
                "en": "Changes nothing: flash-attention is used anyway.",
                "zh": "没有变化：本来就使用 flash-attention。",
            },
        )
    if options["no_sdpa"]:
        yield from _sdpa(options, here)


def _sdpa(options: Mapping[str, Value], here: Here) -> Iterator[Note]:
    used = "flash-attention" if uses_flash(options, here) else "xformers" if uses_xformers(options, here) else ""
    if used:
        text = {"en": f"Changes nothing: {used} is used anyway.", "zh": f"没有变化：本来就使用 {used}。"}
        yield Note("no_sdpa", text)


def _positions(path: Path, about: About, options: Mapping[str, Value]) -> Iterator[Note]:
    asked = [key for key in ("alpha_value", "compress_pos_emb") if float(options[key]) > 1]
    if about.ropeless:
        for key in asked:
            yield Note(
                key,
                {"en": "No effect: this model's positions are not rotary.", "zh": "无效：此模型不使用旋转位置编码。"},
            )
        return
    longest = context_length(path, {**options, "max_seq_len": 0})
    if asked and 0 < int(options["max_seq_len"]) <= context_length(path, {**options, **_PLAIN}):
        yield Note(
            asked[0],
            {
                "en": f"Makes room for {longest} tokens, but max_seq_len stays at {options['max_seq_len']}. "
                "Raise that, or set it to 0.",
                "zh": f"可容纳 {longest} 个词符，但最大序列长度仍为 {options['max_seq_len']}。请将其调大，或设为 0。",
            },
        )


_PLAIN: Mapping[str, Value] = {"max_seq_len": 0, "alpha_value": 1.0, "compress_pos_emb": 1.0}
