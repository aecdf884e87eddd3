"""Recognize intact files that no loader can load: what they are, and what to do about it.

Sources: GGUFType and MODEL_ARCH in llama.cpp's gguf-py; the list of architectures in ComfyUI-GGUF's loader; what
exllamav3, mlx-lm and diffusers write into config.json.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from pathlib import Path

from modules.core.errors import Words
from modules.formats.checkpoint import Checkpoint
from modules.formats.embedding import PIPELINE, PIPELINE_SETTINGS
from modules.formats.gguf_header import GgufHeader
from modules.loaders.quantization_methods import missing_for_method

_PROJECTOR: Words = {
    "en": "this is the vision or audio part of another model (mmproj). Put it beside that model, which can then read "
    "images.",
    "zh": "这是另一个模型的视觉或音频部分（mmproj）。请将其放到该模型所在的文件夹，该模型即可识别图片。",
}
_ADAPTER: Words = {
    "en": "this is a LoRA, not a model. Move it into the folder loras/.",
    "zh": "这是 LoRA，不是模型。请将其移到 loras/ 文件夹。",
}
_IMATRIX: Words = {
    "en": "this is an importance matrix for quantizing a model, not a model. You can move it elsewhere.",
    "zh": "这是量化模型时使用的重要性矩阵（imatrix），不是模型，可以移到别处。",
}
_CONTROL_VECTOR: Words = {
    "en": "this is a control vector for another model, not a model. You can move it elsewhere.",
    "zh": "这是用于另一个模型的控制向量，不是模型，可以移到别处。",
}
_IMAGES: Words = {
    "en": "this model generates images or videos, not text. Use it with a program such as ComfyUI.",
    "zh": "此模型生成图像或视频，而不是文本。请在 ComfyUI 等程序中使用。",
}
_EXL3: Words = {
    "en": "EXL3 needs ExLlamaV3, which is not supported. Get this model as EXL2 or GGUF.",
    "zh": "EXL3 需要 ExLlamaV3，目前不支持。请改用此模型的 EXL2 或 GGUF 版本。",
}
_MLX: Words = {
    "en": "this model is quantized for MLX, which runs on Apple computers only. Get it as GGUF.",
    "zh": "此模型按 MLX 格式量化，只能在苹果电脑上运行。请改用 GGUF 版本。",
}
_ORIGINAL: Words = {
    "en": "these are the original weights of the model's makers (consolidated…), for their own program. Download the "
    "version for Transformers (config.json, model.safetensors), or GGUF.",
    "zh": "这是模型作者自有程序使用的原始权重（consolidated…）。"
    "请下载 Transformers 版本（config.json、model.safetensors）或 GGUF 版本。",
}
_OTHER_FRAMEWORK: Words = {
    "en": "its only weights are for {0}. Download the version for PyTorch (model.safetensors), or GGUF.",
    "zh": "其中只有 {0} 格式的权重。请下载 PyTorch 版本（model.safetensors）或 GGUF 版本。",
}
_NOT_GENERATING: Words = {
    "en": "this model does not generate text ({0}): it is for classification, speech or pictures, or lacks the files "
    "of an embedding model (modules.json).",
    "zh": "此模型（{0}）不生成文本，而是用于分类、语音或图像，或缺少嵌入模型所需的文件（modules.json）。",
}
_ORIGINAL_LLAVA: Words = {
    "en": "this is LLaVA in the form of its makers' own program ({0}). Download the version for Transformers "
    "(LlavaForConditionalGeneration, such as those of llava-hf), or GGUF with its mmproj.",
    "zh": "这是 LLaVA 作者自有程序使用的格式（{0}）。请下载 Transformers 版本（LlavaForConditionalGeneration，"
    "例如 llava-hf 发布的版本），或 GGUF 版本及其 mmproj。",
}
LOOSE_WEIGHTS: Words = {
    "en": "weights alone cannot be loaded. Put the file into a folder of its own, together with config.json and the "
    "tokenizer's files from its repository.",
    "zh": "仅有权重无法加载。请将此文件放入单独的文件夹，并从其仓库下载 config.json 和词符化器文件。",
}

_GGUF_NOT_GENERATING = ("t5encoder", "wavtokenizer-dec")
_TASKS = re.compile(
    r"For(SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|NextSentencePrediction|MaskedLM"
    r"|ImageClassification|ObjectDetection|SemanticSegmentation|AudioClassification|CTC|SpeechSeq2Seq)$"
    r"|^(Whisper|Clip|CLIP|Siglip|ViT|Bert|Roberta|XLMRoberta|DistilBert|MPNet|Electra|Deberta|Albert|Wav2Vec2).*Model$"
    r"|^Whisper"
)
_LLAVA = re.compile(r"Llava[A-Z]\w*ForCausalLM")
_EMBEDDING_FILES = (PIPELINE, PIPELINE_SETTINGS)


def _filled(words: Words, detail: str) -> Words:
    return {language: text.format(detail) for language, text in words.items()}


_GGUF_KINDS = {"mmproj": _PROJECTOR, "adapter": _ADAPTER, "imatrix": _IMATRIX}
_GGUF_ARCHITECTURES = {
    "clip": _PROJECTOR,
    "controlvector": _CONTROL_VECTOR,
    **dict.fromkeys(("flux", "sd1", "sdxl", "sd3", "aura", "hidream", "cosmos"), _IMAGES),
    **{architecture: _filled(_NOT_GENERATING, architecture) for architecture in _GGUF_NOT_GENERATING},
    **dict.fromkeys(("ltxv", "hyvid", "wan", "lumina2", "qwen_image"), _IMAGES),
}
UNSUPPORTED_FORMATS: Mapping[str, Words] = {
    "exl3": _EXL3,
    "mlx": _MLX,
    "diffusers": _IMAGES,
    "original": _ORIGINAL,
    "tensorflow": _filled(_OTHER_FRAMEWORK, "TensorFlow"),
    "flax": _filled(_OTHER_FRAMEWORK, "Flax"),
    "onnx": _filled(_OTHER_FRAMEWORK, "ONNX"),
}
"""Reasons by format of a folder of weights."""


def unsupported_checkpoint(checkpoint: Checkpoint, folder: Path, files: Container[Path], task: str) -> Words | None:
    """Return why no loader on this machine can load the checkpoint in `folder`; None if one may.

    `task` is that of `formats.embedding`, "" if there is none.
    """
    if reason := UNSUPPORTED_FORMATS.get(checkpoint.format):
        return reason
    if task and not checkpoint.format:
        return None
    task = next((name for name in checkpoint.architectures if _TASKS.search(name)), "")
    if task or any(folder / name in files for name in _EMBEDDING_FILES):
        return _filled(_NOT_GENERATING, task or "sentence-transformers")
    llava = next(filter(_LLAVA.fullmatch, checkpoint.architectures), "")
    if llava and not checkpoint.format and not checkpoint.has_own_code:
        return _filled(_ORIGINAL_LLAVA, llava)
    if checkpoint.format or not checkpoint.method:
        return None
    return missing_for_method(checkpoint.method, checkpoint.has_own_code)


def unsupported_reason(header: GgufHeader) -> Words | None:
    """Return why no loader can load the GGUF file with this header; None if one may."""
    return _GGUF_KINDS.get(header.kind) or _GGUF_ARCHITECTURES.get(header.architecture)
