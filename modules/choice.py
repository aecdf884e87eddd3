"""Which loader suits a model, and why: a sentence for each format that each loader takes."""

from __future__ import annotations

from collections.abc import Mapping

from modules.catalog import ModelRecord
from modules.errors import LANGUAGES, Words
from modules.loaders import Loader

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


def reason(record: ModelRecord, loader: Loader) -> Words | None:
    """What `loader` is to models of this format; None if it cannot load them."""
    if (loader.name, record.format) == ("Transformers", "gptq") and (record.defaults.get("wbits") or 4) != 4:
        return _NOT_4_BITS
    return _REASONS.get((loader.name, record.format))


def why(record: ModelRecord, loader: Loader) -> Words | None:
    """The same after what the model's files say of it."""
    words = reason(record, loader)
    if words is None:
        return None
    kind = record.format.upper() if record.format not in ("safetensors", "pytorch") else record.format
    said = record.quantisation if record.quantisation.startswith(kind) else f"{kind}, {record.quantisation}".strip(", ")
    return {language: f"{said}: {words[language]}" for language in LANGUAGES}
