"""Export LoRAs: as a GGUF adapter, or merged into a copy of their base model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.config.named_files import MAX_NAME_BYTES, is_valid_name
from modules.core.errors import NameTaken, OptionError, Unsupported, WebUIError, Words
from modules.core.training_errors import CannotTrain, TrainingDiskFull
from modules.downloads.disk import free_space
from modules.engines.training.job import MERGE
from modules.lora.catalog import LoraRecord
from modules.lora.compatibility import check_fit
from modules.lora.gguf_conversion import converted
from modules.options.option import Value
from modules.training.process import PROGRAM, TrainingProcess
from modules.training.start import disk_problems, overlay_for

_PLAIN = ("safetensors", "pytorch")
NAME: Words = {
    "en": rf'a name without \ / : * ? " < > | and without dots at its ends, of at most {MAX_NAME_BYTES} bytes, and '
    "no device such as CON",
    "zh": rf'不含 \ / : * ? " < > |、首尾无点、不超过 {MAX_NAME_BYTES} 字节、且不是 CON 等设备名的名称',
}
_RESERVE = 1.05
"""A merged model needs as much disk space as its base, and some for other files."""


def gguf_adapter(lora: LoraRecord, model: ModelRecord) -> Path:
    """Return the path of the LoRA as a GGUF adapter for the GGUF file `model`.

    Raises Unsupported, the LoRA's problem, LoraMismatch, LoraInexpressible or LoraNotWritten.
    """
    if model.header is None:
        raise Unsupported(
            {"en": f"{model.name} is not a GGUF file.", "zh": f"{model.name} 不是 GGUF 文件。"},
        )
    check_fit(lora, model)
    return converted(lora, model.header) if lora.kind == "peft" else lora.path


def merged_model(
    lora: LoraRecord,
    model: ModelRecord,
    options: Mapping[str, Value],
    target: Path,
    work: Path,
    advance: Callable[[float], None] = lambda done: None,
    program: str = PROGRAM,
) -> None:
    """Write the model with the LoRA merged into its weights to the folder `target`, which is whole or missing.

    `work` is a folder for temporary files. Raises CannotTrain for quantized weights, NameTaken, LoraError,
    TrainingDiskFull, TrainerDied or TrainingFailed.
    """
    if model.format not in _PLAIN or (model.shape is not None and model.shape.method):
        raise CannotTrain(model.name, _QUANTIZED)
    if not is_valid_name(target.name):
        raise OptionError("name", target.name[:80], NAME)
    if target.exists():
        raise NameTaken(target.name)
    check_fit(lora, model)
    if model.size * _RESERVE > (free := free_space(target.parent)):
        raise TrainingDiskFull(str(target.parent), free)
    part = target.with_name(f".{target.name}.part")
    folder = work / f".merge-{target.name}"
    try:
        with disk_problems(target.parent):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(part, ignore_errors=True)
            job = {"base": str(model.path), "options": dict(options), "adapter": str(lora.path), "target": str(part)}
            (folder / MERGE).write_text(json.dumps(job), encoding="utf-8")
            _follow(TrainingProcess(folder, overlay_for(model.format), program), advance)
            part.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(part, ignore_errors=True)


def _follow(process: TrainingProcess, advance: Callable[[float], None]) -> None:
    try:
        for event in process.events():
            if event["event"] == "failed":
                raise WebUIError.from_json(event)
            if event["event"] == "weights":
                advance(event["done"])
    finally:
        process.close()


_QUANTIZED: Words = {
    "en": "a LoRA can be merged into weights of 16 or 32 bits only. Choose the original model.",
    "zh": "LoRA 只能合并到 16 或 32 位的权重中，请选择原始模型。",
}
