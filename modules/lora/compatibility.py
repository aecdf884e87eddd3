"""Does a LoRA fit a model on disk? By the names and shapes of tensors alone; nothing is loaded.

What cannot be told so is left to whoever applies it: experts, which transformers joins while it loads them, and models
whose weights are pickles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modules.catalog.catalog import ModelRecord
from modules.core.errors import Words
from modules.core.lora_errors import LoraMismatch
from modules.formats.checkpoint import Stored, read_table
from modules.formats.gguf_header import read_tensors
from modules.lora.adapter_files import Pair
from modules.lora.catalog import LoraRecord
from modules.lora.tensor_names import ARCHITECTURES, gguf_name
from modules.system.bounded_reader import brief

_WRAPPERS = ("base_model", "model", "language_model", "transformer")  # which stand before the same names, or do not
_PACKED = ("qweight", "q_weight", "weight_packed", "trellis")
_PACKED_TYPES = ("U8", "I32")  # as 4-bit weights of bitsandbytes are saved: their shape says nothing

_NO_MODULE: Words = {
    "en": "the model has no such module; the LoRA is for another architecture, or for a larger model.",
    "zh": "模型中没有这个模块；该 LoRA 适用于其他架构或更大的模型。",
}
_TIED: Words = {
    "en": "the model takes its output from the embeddings too, and llama.cpp cannot change them then.",
    "zh": "模型的输出层与嵌入层共用权重，此时 llama.cpp 无法更改嵌入层。",
}
_NO_GGUF: Words = {
    "en": "a GGUF adapter can be used with GGUF models only.",
    "zh": "GGUF 格式的适配器只能用于 GGUF 模型。",
}


@dataclass(frozen=True)
class Misfit:
    """A tensor of a LoRA, by its name there, and why it does not fit: a whole sentence."""

    tensor: str
    why: Words


def check_fit(lora: LoraRecord, model: ModelRecord) -> None:
    """LoraMismatch with the first misfit; ModelProblem of either; OSError."""
    if problem := lora.problem or model.problem:
        raise problem
    found = misfits(lora, model)
    if found:
        raise LoraMismatch(lora.name, model.name, found[0].tensor, found[0].why, len(found) - 1)


def misfits(lora: LoraRecord, model: ModelRecord) -> list[Misfit]:
    """In the order of the LoRA's tensors; two at most for each pair of A and B. ModelProblem, OSError."""
    if model.format == "gguf":
        return list(_in_gguf(lora, model))
    if lora.kind == "gguf":
        return [Misfit(lora.pairs[0].a, _NO_GGUF)]
    return list(_in_folder(lora, model))


def _in_gguf(lora: LoraRecord, model: ModelRecord) -> Iterator[Misfit]:
    arch = model.architecture
    if lora.kind == "gguf" and lora.architecture != arch:
        yield Misfit(lora.pairs[0].a, _other_architecture(lora.architecture, arch))
        return
    if lora.kind == "peft" and arch not in ARCHITECTURES:
        return  # its names are not known, and the conversion will say so
    shapes = {each.name: each.shape for path in model.files for each in read_tensors(path)[1]}
    for pair in lora.pairs:
        name = pair.module if lora.kind == "gguf" else gguf_name(arch, pair.module)
        shape = shapes.get(name or "")
        if pair.embedding and lora.kind == "gguf" and "output.weight" not in shapes:
            yield Misfit(pair.a, _TIED)  # the process would end
        elif shape is not None and len(shape) > 1:
            if pair.experts != math.prod(shape[2:]) and lora.kind == "gguf":
                yield Misfit(pair.a, _other_experts(math.prod(shape[2:]), pair.experts))
            yield from _compared(pair, shape[1 if pair.embedding else 0], shape[0 if pair.embedding else 1])
        elif lora.kind == "gguf" or not pair.embedding:  # PEFT's: refused by the conversion
            yield Misfit(pair.a, _NO_MODULE)


def _in_folder(lora: LoraRecord, model: ModelRecord) -> Iterator[Misfit]:
    files = [path for path in model.files if path.suffix.lower() == ".safetensors"]
    table = {_core(name): each for path in files for name, each in read_table(path).items()}
    transposed = lora.config is not None and lora.config.transposed
    for pair in lora.pairs if table else ():
        module = _core(pair.module)
        if any(part == "experts" for part in module.split(".")):
            continue
        size = _size(table, module, transposed or pair.embedding)
        if size is None:
            yield Misfit(pair.a, _NO_MODULE)
        else:
            yield from _compared(pair, *size)


def _core(name: str) -> str:
    """`name` without what may or may not stand before it, in a checkpoint and in a model."""
    parts = name.split(".")
    while parts[0] in _WRAPPERS and len(parts) > 1:
        parts = parts[1:]
    return ".".join(parts)


def _size(table: Mapping[str, Stored], module: str, transposed: bool) -> tuple[int, int] | None:
    """Inputs and outputs of `module`, 0 for what cannot be seen; None if the model has no such module."""
    weight = table.get(f"{module}.weight")
    if weight is None and module == "lm_head":  # it shares the embeddings
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


def _compared(pair: Pair, inputs: int, outputs: int) -> Iterator[Misfit]:
    if inputs not in (0, pair.inputs):
        yield Misfit(pair.a, _unequal(f"{inputs} inputs", f" {inputs} 个输入", pair.inputs))
    if outputs not in (0, pair.outputs):
        yield Misfit(pair.b, _unequal(f"{outputs} outputs", f" {outputs} 个输出", pair.outputs))


def _other_experts(model: int, lora: int) -> Words:
    return {
        "en": f"the LoRA is for {lora} experts there, and the model has {model}.",
        "zh": f"LoRA 在此处对应 {lora} 个专家，而模型有 {model} 个。",
    }


def _unequal(en: str, zh: str, found: int) -> Words:
    return {
        "en": f"the model has {en} there, the LoRA {found}.",
        "zh": f"模型在此处有{zh}，LoRA 却是 {found} 个。",
    }


def _other_architecture(lora: str, model: str) -> Words:
    return {
        "en": f"it is made for the architecture {brief(lora)}, and the model is {brief(model)}.",
        "zh": f"它适用于架构 {brief(lora)}，而模型是 {brief(model)}。",
    }
