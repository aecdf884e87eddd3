"""What lies among the models and is whole, but none that can be loaded here: what it is, and what to do about it.

Source: GGUFType and MODEL_ARCH in llama.cpp's gguf-py; the list of architectures in ComfyUI-GGUF's loader; what
exllamav3, mlx-lm and diffusers write into config.json.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.core.errors import Words
from modules.formats.gguf_header import GgufHeader

_PROJECTOR: Words = {
    "en": "this is the part of another model that sees or hears (mmproj). Load that model; "
    "pictures and sound are not supported here.",
    "zh": "这是另一个模型的视觉或听觉部分（mmproj）。请加载那个模型；此处不支持图像和声音。",
}
_ADAPTER: Words = {
    "en": "this is a LoRA, not a model. It belongs into the folder loras/.",
    "zh": "这是 LoRA，不是模型，应放入 loras/ 文件夹。",
}
_IMATRIX: Words = {
    "en": "this is an importance matrix, data for quantising a model, and no model. It can be moved elsewhere.",
    "zh": "这是量化模型时使用的重要性矩阵（imatrix），不是模型，可以移到别处。",
}
_CONTROL: Words = {
    "en": "this is a control vector for another model, and no model. It can be moved elsewhere.",
    "zh": "这是用于另一个模型的控制向量，不是模型，可以移到别处。",
}
_PICTURES: Words = {
    "en": "this model makes pictures or videos, not text. It is for programs such as ComfyUI.",
    "zh": "这是生成图像或视频的模型，而不是文本模型，适用于 ComfyUI 等程序。",
}
_EXL3: Words = {
    "en": "EXL3 needs ExLlamaV3, which is not supported here. Get this model as EXL2 or GGUF.",
    "zh": "EXL3 需要 ExLlamaV3，此处不支持。请改用此模型的 EXL2 或 GGUF 版本。",
}
_MLX: Words = {
    "en": "this model is quantised for MLX, which runs on Apple computers only. Get it as GGUF.",
    "zh": "此模型按 MLX 格式量化，只能在苹果电脑上运行。请改用 GGUF 版本。",
}
LOOSE: Words = {
    "en": "weights alone cannot be loaded. Put the file into a folder of its own, together with config.json and the "
    "tokenizer's files from where it came from.",
    "zh": "仅有权重无法加载。请将此文件放入单独的文件夹，并从其来源处下载 config.json 和词符化器的文件。",
}

_GGUF_KINDS = {"mmproj": _PROJECTOR, "adapter": _ADAPTER, "imatrix": _IMATRIX}
_GGUF_ARCHITECTURES = {
    "clip": _PROJECTOR,
    "controlvector": _CONTROL,
    **dict.fromkeys(("flux", "sd1", "sdxl", "sd3", "aura", "hidream", "cosmos"), _PICTURES),
    **dict.fromkeys(("ltxv", "hyvid", "wan", "lumina2", "qwen_image"), _PICTURES),
}
FOLDERS: Mapping[str, Words] = {"exl3": _EXL3, "mlx": _MLX, "diffusers": _PICTURES}
"""By the format of a folder of weights."""


def unsupported(header: GgufHeader) -> Words | None:
    """Why the GGUF file with this header is none for a loader of ours; None if it may be one."""
    return _GGUF_KINDS.get(header.kind) or _GGUF_ARCHITECTURES.get(header.architecture)
