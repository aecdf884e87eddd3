"""Which loader suits a model, and why: a sentence for each format that each loader takes."""

from __future__ import annotations

from collections.abc import Mapping

from modules.catalog.catalog import ModelRecord
from modules.core.errors import LANGUAGES, Unsupported, Words
from modules.loaders.availability import unavailable
from modules.loaders.registry import Loader, candidates
from modules.system.bounded_reader import brief

_PLAIN: Words = {
    "en": "full-precision weights; can be cut to 4 or 8 bits while loading, takes LoRAs, and every sampler works.",
    "zh": "全精度权重；加载时可压缩为 4 或 8 位，支持 LoRA 和全部采样器。",
}
_EXL2: Words = {
    "en": "the fastest on NVIDIA cards, with its own sampler, several requests at once; needs CUDA.",
    "zh": "在 NVIDIA 显卡上最快，使用自带采样器，可同时处理多个请求；需要 CUDA。",
}
_EXL2_HF: Words = {
    "en": "nearly as fast as ExLlamav2, with the samplers of transformers and CFG; needs CUDA.",
    "zh": "速度接近 ExLlamav2，使用 transformers 的采样器并支持 CFG；需要 CUDA。",
}
_NOT_4_BITS: Words = {
    "en": "reads it through gptqmodel, and a LoRA can be trained on it. On the processor gptqmodel is fast with 4 bits "
    "alone: with 8, AutoGPTQ is faster there.",
    "zh": "通过 gptqmodel 读取，并可训练 LoRA。在 CPU 上 gptqmodel 仅对 4 位较快；8 位模型用 AutoGPTQ 更快。",
}

_REASONS: Mapping[tuple[str, str], Words] = {
    ("llama.cpp", "gguf"): {
        "en": "made for this format, on the processor as well as the GPU; several people can chat at once.",
        "zh": "专为此格式设计，CPU 和 GPU 均可运行，多人可同时对话。",
    },
    ("llamacpp_HF", "gguf"): {
        "en": "the same engine under the samplers and the tokenizer of transformers: for CFG and perplexity.",
        "zh": "同一引擎，改用 transformers 的采样器和词符化器：用于 CFG 和困惑度评估。",
    },
    ("Transformers", "safetensors"): _PLAIN,
    ("Transformers", "pytorch"): _PLAIN,
    ("Transformers", "gptq"): {
        "en": "reads it through gptqmodel: fast on the processor too, and a LoRA can be trained on it. "
        "On the processor its first load compiles a kernel: minutes, and g++.",
        "zh": "通过 gptqmodel 读取：在 CPU 上也较快，并可训练 LoRA。在 CPU 上首次加载需用 g++ 编译内核，耗时数分钟。",
    },
    ("Transformers", "awq"): {
        "en": "reads it through gptqmodel; AutoAWQ is the package it was made with. "
        "On the processor its first load compiles a kernel: minutes, and g++.",
        "zh": "通过 gptqmodel 读取；AutoAWQ 是制作该模型所用的软件包。在 CPU 上首次加载需用 g++ 编译内核，耗时数分钟。",
    },
    ("AutoGPTQ", "gptq"): {
        "en": "the package it was made with; also runs on the processor, and takes old models without metadata.",
        "zh": "制作该模型所用的软件包；也可在 CPU 上运行，并支持缺少元数据的旧模型。",
    },
    ("ExLlamav2", "gptq"): _EXL2,
    ("ExLlamav2", "exl2"): _EXL2,
    ("ExLlamav2_HF", "gptq"): _EXL2_HF,
    ("ExLlamav2_HF", "exl2"): _EXL2_HF,
    ("AutoAWQ", "awq"): {
        "en": "the package it was made with; fast on a GPU, and usable on the processor, by PyTorch's own kernel.",
        "zh": "制作该模型所用的软件包；GPU 上较快，CPU 上借助 PyTorch 自带的内核也可使用。",
    },
}


_EXLLAMA = ("ExLlamav2", "ExLlamav2_HF")
"""Of GPTQ they take 4 bits only; EXL2 has them all."""
_KNOWN = (
    *("llama", "mistral", "mixtral", "mistral3", "llava", "yi", "orion", "qwen2", "qwen3", "qwen3_moe", "qwen2_vl"),
    *("qwen2_5_vl", "gemma", "gemma2", "gemma3", "gemmoe", "starcoder2", "cohere", "cohere2", "dbrx", "phi3"),
    *("granite", "gpt_bigcode", "gpt2", "minicpm", "internlm2", "index", "glm4"),
)
"""Kinds of models that ExLlamaV2 0.3.2, its last version, tells apart (architecture.py). It takes all others for Llama,
which some are but for the name."""


def reason(record: ModelRecord, loader: Loader) -> Words | None:
    """What `loader` is to such models; None if it cannot load them, or there is nothing to say."""
    if not _takes(loader, record):
        return None
    if _unusual_bits(record) and loader.name == "Transformers":
        return _NOT_4_BITS
    words = _REASONS.get((loader.name, record.format))
    if words is None or not _is_guess(record, loader):
        return words
    doubt = _doubt(brief(record.architecture))
    return {language: words[language] + doubt[language] for language in LANGUAGES}


def compatible_loaders(record: ModelRecord) -> tuple[Loader, ...]:
    """The loaders that can load it, best first."""
    able = (each for each in candidates(record.format) if _takes(each, record))
    return tuple(sorted(able, key=lambda each: _is_guess(record, each)))


def _takes(loader: Loader, record: ModelRecord) -> bool:
    return record.format in loader.formats and not (loader.name in _EXLLAMA and _unusual_bits(record))


def incompatibility(record: ModelRecord, loader: Loader) -> Unsupported | None:
    """Why not with `loader`, and with which instead; None if it is one of `compatible_loaders`."""
    if _takes(loader, record):
        return None
    able = compatible_loaders(record)
    others = ", ".join(each.name for each in able if unavailable(each, record.format) is None) or able[0].name
    bits = _unusual_bits(record) if record.format in loader.formats else 0
    kind = {"en": f"{bits}-bit {record.format}", "zh": f"{bits} 位的 {record.format}"} if bits else {}
    return Unsupported(
        {
            "en": f"{loader.name} cannot load {kind.get('en', record.format)} models; for {record.name} use {others}.",
            "zh": f"{loader.name} 无法加载 {kind.get('zh', record.format)} 格式的模型；{record.name} 请使用 {others}。",
        }
    )


def _unusual_bits(record: ModelRecord) -> int:
    """How many bits a GPTQ model has that has not the usual 4; else 0."""
    bits = record.defaults.get("wbits") if record.format == "gptq" else 0
    return bits if isinstance(bits, int) and bits != 4 else 0


def _is_guess(record: ModelRecord, loader: Loader) -> bool:
    """Whether the loader takes it for something that it is not called."""
    kind = record.architecture.lower()
    return loader.name in _EXLLAMA and bool(kind) and kind not in _KNOWN


def _doubt(kind: str) -> Words:
    return {
        "en": f" It does not know {kind} and takes it for Llama: see whether what it writes makes sense.",
        "zh": f"它不认识 {kind}，会按 Llama 处理：请留意输出是否正常。",
    }


def explain_choice(record: ModelRecord, loader: Loader) -> Words | None:
    """The same after what the model's files say of it."""
    words = reason(record, loader)
    if words is None:
        return None
    kind = record.format.upper() if record.format not in ("safetensors", "pytorch") else record.format
    said = record.quantization if record.quantization.startswith(kind) else f"{kind}, {record.quantization}".strip(", ")
    return {language: f"{said}: {words[language]}" for language in LANGUAGES}
