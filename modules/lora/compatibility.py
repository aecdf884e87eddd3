"""Check whether a LoRA fits a model on disk, by the names and shapes of tensors; nothing is loaded.

What this cannot decide is left to the engine: experts, which transformers merges during a load, and models whose
weights are pickles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modules.catalog.record import ModelRecord
from modules.core.errors import Words
from modules.core.lora_errors import LoraMismatch
from modules.formats.gguf_header import read_tensors
from modules.formats.safetensors_header import StoredTensor, read_safetensors_table
from modules.lora.adapter_files import UNUSABLE, Pair
from modules.lora.catalog import LoraRecord
from modules.lora.support import advice
from modules.lora.tensor_names import ARCHITECTURES, gguf_name
from modules.system.format_errors import quoted

# Prefixes of module names that depend on the class a model was saved from.
_WRAPPERS = ("base_model", "model", "language_model", "transformer")
_PACKED = ("qweight", "q_weight", "weight_packed", "trellis")
_PACKED_TYPES = ("U8", "I32")  # of 4-bit weights saved by bitsandbytes, whose shape is not that of the layer

_NO_MODULE: Words = {
    "en": "the model has no such module: the LoRA was made for another architecture or a larger model.",
    "zh": "模型中没有这个模块；该 LoRA 适用于其他架构或更大的模型。",
}
_TIED: Words = {
    "en": "the model shares its embeddings with the output layer, and llama.cpp cannot change those.",
    "zh": "模型的输出层与嵌入层共用权重，llama.cpp 无法修改这样的嵌入层。",
}
_TIED_OUTPUT: Words = {
    "en": "the model shares its output layer with its embeddings, and llama.cpp cannot change those. {advice}",
    "zh": "模型的输出层与嵌入层共用权重，llama.cpp 无法修改这样的输出层。{advice}",
}
_GGUF_ONLY: Words = {
    "en": "a GGUF adapter can only be used with GGUF models.",
    "zh": "GGUF 格式的适配器只能用于 GGUF 模型。",
}


@dataclass(frozen=True)
class Mismatch:
    """A tensor of a LoRA, by its name in the file, and a sentence that says why it does not fit."""

    tensor: str
    reason: Words


def check_fit(lora: LoraRecord, model: ModelRecord) -> None:
    """Raise LoraMismatch, with the first tensor that does not fit, the ModelProblem of either, or OSError."""
    if problem := lora.problem or model.problem:
        raise problem
    if misfits := mismatches(lora, model):
        first = misfits[0]
        raise LoraMismatch(lora.name, model.name, first.tensor, first.reason, len(misfits) - 1)


def mismatches(lora: LoraRecord, model: ModelRecord) -> list[Mismatch]:
    """Return the tensors that do not fit, in the order of the file. Raises ModelProblem or OSError."""
    if model.format == "gguf":
        return list(_in_gguf(lora, model))
    if lora.kind == "gguf":
        return [Mismatch(lora.pairs[0].a, _GGUF_ONLY)]
    return list(_in_folder(lora, model))


def _in_gguf(lora: LoraRecord, model: ModelRecord) -> Iterator[Mismatch]:
    arch = model.architecture
    if lora.kind == "gguf" and lora.architecture != arch:
        yield Mismatch(lora.pairs[0].a, _other_architecture(lora.architecture, arch))
        return
    if lora.kind == "peft" and arch not in ARCHITECTURES:
        return  # the conversion reports that it does not know the names
    shapes = {tensor.name: tensor.shape for path in model.files for tensor in read_tensors(path)[1]}
    for pair in lora.pairs:
        name = pair.module if lora.kind == "gguf" else gguf_name(arch, pair.module)
        shape = shapes.get(name or "")
        if pair.embedding and lora.kind == "gguf" and "output.weight" not in shapes:
            yield Mismatch(pair.a, _TIED)  # llama.cpp would abort the process
        elif shape is not None and len(shape) > 1:
            if pair.experts != math.prod(shape[2:]) and lora.kind == "gguf":
                yield Mismatch(pair.a, _other_experts(math.prod(shape[2:]), pair.experts))
            yield from _compare(pair, shape[1 if pair.embedding else 0], shape[0 if pair.embedding else 1])
        elif name == "output.weight" and "token_embd.weight" in shapes:
            yield Mismatch(pair.a, _tied_output(lora))
        elif lora.kind == "gguf" or not pair.embedding:  # the conversion refuses embeddings of PEFT
            yield Mismatch(pair.a, _NO_MODULE)


def _in_folder(lora: LoraRecord, model: ModelRecord) -> Iterator[Mismatch]:
    files = [path for path in model.files if path.suffix.lower() == ".safetensors"]
    table = {_unwrapped(name): tensor for path in files for name, tensor in read_safetensors_table(path).items()}
    transposed = lora.config is not None and lora.config.transposed
    for pair in lora.pairs if table else ():
        module = _unwrapped(pair.module)
        if any(part == "experts" for part in module.split(".")):
            continue
        size = _size(table, module, transposed or pair.embedding)
        if size is None:
            yield Mismatch(pair.a, _NO_MODULE)
        else:
            yield from _compare(pair, *size)


def _unwrapped(name: str) -> str:
    """Return a module's name without the prefixes that differ between a checkpoint and a model."""
    parts = name.split(".")
    while parts[0] in _WRAPPERS and len(parts) > 1:
        parts = parts[1:]
    return ".".join(parts)


def _size(table: Mapping[str, StoredTensor], module: str, transposed: bool) -> tuple[int, int] | None:
    """Return inputs and outputs of a module, 0 where they are unknown; None if the model has no such module."""
    weight = table.get(f"{module}.weight")
    if weight is None and module == "lm_head":  # it shares the weights of the embeddings
        weight = table.get("embed_tokens.weight")
    if weight is not None:
        if len(weight.shape) < 2 or weight.dtype in _PACKED_TYPES:
            return 0, 0
        outputs, inputs = weight.shape[:2]
        return (outputs, inputs) if transposed else (inputs, outputs)
    if not any(f"{module}.{kind}" in table for kind in _PACKED):
        return None
    scales = table.get(f"{module}.scales")
    return 0, scales.shape[1] if scales is not None and len(scales.shape) == 2 else 0


def _compare(pair: Pair, inputs: int, outputs: int) -> Iterator[Mismatch]:
    if inputs not in (0, pair.inputs):
        yield Mismatch(pair.a, _wrong_size(f"{inputs} inputs", f" {inputs} 个输入", pair.inputs))
    if outputs not in (0, pair.outputs):
        yield Mismatch(pair.b, _wrong_size(f"{outputs} outputs", f" {outputs} 个输出", pair.outputs))


def _tied_output(lora: LoraRecord) -> Words:
    # A GGUF adapter works with GGUF models alone.
    words = advice(lora) if lora.kind == "peft" else UNUSABLE
    return {language: text.format(advice=words[language]) for language, text in _TIED_OUTPUT.items()}


def _other_experts(model: int, lora: int) -> Words:
    return {
        "en": f"the LoRA has {lora} experts for this module, and the model {model}.",
        "zh": f"LoRA 在该模块有 {lora} 个专家，而模型有 {model} 个。",
    }


def _wrong_size(en: str, zh: str, lora: int) -> Words:
    return {
        "en": f"the module has {en} in the model, and {lora} in the LoRA.",
        "zh": f"该模块在模型中有{zh}，而在 LoRA 中有 {lora} 个。",
    }


def _other_architecture(lora: str, model: str) -> Words:
    return {
        "en": f"the LoRA was made for the architecture {quoted(lora)}, but the model is {quoted(model)}.",
        "zh": f"该 LoRA 适用于{quoted(lora, 'zh')}架构，而模型是{quoted(model, 'zh')}。",
    }
