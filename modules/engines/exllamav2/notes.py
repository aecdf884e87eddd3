"""Notes on ExLlamaV2 options that have no effect, or another one than their names suggest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Note
from modules.engines.exllamav2.arguments import (
    Environment,
    context_length,
    expert_count,
    gpu_split,
    uses_flash_attention,
    uses_paged_cache,
    uses_xformers,
)
from modules.engines.hf import notes as hf_notes
from modules.engines.hf.arguments import ModelConfig
from modules.options.option import Value


def notes(path: Path, options: Mapping[str, Value], environment: Environment) -> Iterator[Note]:
    """Yield the notes that both loaders have."""
    config = ModelConfig(path)
    yield from _devices(options, environment)
    yield from _attention(options, environment)
    yield from _positions(path, config, options)
    if options["cache_4bit"] and options["cache_8bit"]:
        yield Note(
            "cache_8bit", {"en": "Not used: the 4-bit cache takes precedence.", "zh": "未使用：以 4 位缓存为准。"}
        )
    if options["num_experts_per_token"] and expert_count(config) <= 1:
        yield Note(
            "num_experts_per_token",
            {"en": "No effect: this model is not a mixture of experts.", "zh": "无效：此模型不是混合专家模型。"},
        )
    if options["trust_remote_code"]:
        yield hf_notes.remote_code_note(path)
    yield from hf_notes.tokenizer_notes(options)


def generator_notes(path: Path, options: Mapping[str, Value], environment: Environment) -> Iterator[Note]:
    """Yield the notes of ExLlamav2."""
    yield from notes(path, options, environment)
    if options["cfg_cache"] and not uses_paged_cache(options, environment):
        yield NO_PAGED_CACHE_NOTE


NO_PAGED_CACHE_NOTE = Note(
    "cfg_cache",
    {
        "en": "No effect: without flash-attention 2.5.7 this loader runs one sequence at a time, and CFG needs two. "
        "Use ExLlamav2_HF instead.",
        "zh": "无效：没有 flash-attention 2.5.7 时，此加载器一次只能计算一个序列，而 CFG 需要两个。"
        "可改用 ExLlamav2_HF。",
    },
)
"""The engine adds it as well if the loaded model turns out to need it."""


def _devices(options: Mapping[str, Value], environment: Environment) -> Iterator[Note]:
    sizes = len(gpu_split(options))
    if options["gpu_split"] and options["autosplit"]:
        yield Note("gpu_split", {"en": "Not used: autosplit takes precedence.", "zh": "未使用：以“自动分割”为准。"})
    elif options["gpu_split"] and environment.gpus and sizes > environment.gpus:
        yield Note(
            "gpu_split",
            {
                "en": f"More sizes than GPUs ({environment.gpus}): what the first ones do not hold cannot be loaded.",
                "zh": f"数值多于 GPU 数量（{environment.gpus}）：现有 GPU 放不下时无法加载。",
            },
        )


_NOT_INSTALLED: Words = {
    "en": "No change: it is not installed, or does not support the GPUs of this machine.",
    "zh": "没有变化：尚未安装，或不支持本机的 GPU。",
}


def _attention(options: Mapping[str, Value], environment: Environment) -> Iterator[Note]:
    if options["no_flash_attn"] and not environment.flash:
        yield Note("no_flash_attn", _NOT_INSTALLED)
    if options["no_xformers"] and not environment.xformers:
        yield Note("no_xformers", _NOT_INSTALLED)
    elif options["no_xformers"] and uses_flash_attention(options, environment):
        yield Note(
            "no_xformers",
            {
                "en": "No change: flash-attention is used anyway.",
                "zh": "没有变化：本来就使用 flash-attention。",
            },
        )
    if options["no_sdpa"]:
        yield from _sdpa(options, environment)


def _sdpa(options: Mapping[str, Value], environment: Environment) -> Iterator[Note]:
    if uses_flash_attention(options, environment):
        used = "flash-attention"
    elif uses_xformers(options, environment):
        used = "xformers"
    else:
        return
    yield Note("no_sdpa", {"en": f"No change: {used} is used anyway.", "zh": f"没有变化：本来就使用 {used}。"})


def _positions(path: Path, config: ModelConfig, options: Mapping[str, Value]) -> Iterator[Note]:
    asked = [key for key in ("alpha_value", "compress_pos_emb") if float(options[key]) > 1]
    if config.lacks_rope:
        for key in asked:
            yield Note(
                key,
                {
                    "en": "No effect: this model has no rotary position embeddings (RoPE).",
                    "zh": "无效：此模型不使用旋转位置编码（RoPE）。",
                },
            )
        return
    longest = context_length(path, {**options, "max_seq_len": 0})
    if asked and 0 < int(options["max_seq_len"]) <= context_length(path, {**options, **_UNSCALED}):
        yield Note(
            asked[0],
            {
                "en": f"Allows for {longest} tokens, but max_seq_len is {options['max_seq_len']}. "
                "Raise it, or set it to 0.",
                "zh": f"可支持 {longest} 个词符，但“上下文长度”仍为 {options['max_seq_len']}。请将其调大，或设为 0。",
            },
        )


_UNSCALED: Mapping[str, Value] = {"max_seq_len": 0, "alpha_value": 1.0, "compress_pos_emb": 1.0}
