"""Recommend loaders for a model, and say why."""

from __future__ import annotations

from collections.abc import Mapping

from modules.catalog.record import ModelRecord
from modules.core.errors import LANGUAGES, Unsupported, Words
from modules.formats.embedding import EMBED, RANK
from modules.loaders.availability import unavailable
from modules.loaders.registry import Loader, candidates, gptq_bits
from modules.system.format_errors import quoted

_TASKS: Mapping[str, Words] = {
    EMBED: {"en": "embedding", "zh": "嵌入"},
    RANK: {"en": "reranking", "zh": "重排序"},
}


def compatible_loaders(record: ModelRecord) -> tuple[Loader, ...]:
    """Return the loaders that can load a model, best first; those that do not know its architecture last."""
    compatible = (loader for loader in candidates(record.format) if loader.supports(record))
    return tuple(sorted(compatible, key=lambda loader: not loader.recognizes(record)))


def incompatibility(record: ModelRecord, loader: Loader) -> Unsupported | None:
    """Return why a loader cannot load a model, and which ones can; None if it can."""
    if loader.supports(record):
        return None
    compatible = compatible_loaders(record)
    running = [other.name for other in compatible if unavailable(other, record.format) is None]
    others = ", ".join(running) or compatible[0].name
    kind: Words = {"en": record.format, "zh": f" {record.format} "}
    if record.task:
        kind = _TASKS[record.task]
    elif record.format in loader.formats:
        bits = gptq_bits(record)
        kind = {"en": f"{bits}-bit {record.format}", "zh": f" {bits} 位 {record.format} "}
    return Unsupported(
        {
            "en": f"{loader.name} cannot load {kind['en']} models; for {record.name} use {others}.",
            "zh": f"{loader.name} 无法加载{kind['zh']}模型；{record.name} 请使用 {others}。",
        }
    )


def reason(record: ModelRecord, loader: Loader) -> Words | None:
    """Return what a loader is good for with a model, and a warning if it does not know the architecture.

    None if it cannot load the model.
    """
    words = loader.reason_for(record)
    if words is None or loader.recognizes(record):
        return words
    warning = {
        "en": f" It does not know {quoted(record.architecture)} and treats it as Llama: "
        "check whether the output makes sense.",
        "zh": f"它不认识{quoted(record.architecture, 'zh')}架构，会按 Llama 处理：请留意输出是否正常。",
    }
    return {language: words[language] + warning[language] for language in LANGUAGES}


def explain_choice(record: ModelRecord, loader: Loader, is_owner: bool = True) -> Words | None:
    """Return `reason` after the model's format and quantization, or for the owner after the address of its server."""
    words = reason(record, loader)
    if words is None or (record.server is not None and not is_owner):
        return words
    if record.server is not None:
        return {language: f"{record.server.url}: {words[language]}" for language in LANGUAGES}
    kind = record.format if record.format in ("safetensors", "pytorch") else record.format.upper()
    quantization = record.quantization
    model = quantization if quantization.startswith(kind) else f"{kind}, {quantization}".strip(", ")
    return {language: f"{model}: {words[language]}" for language in LANGUAGES}
