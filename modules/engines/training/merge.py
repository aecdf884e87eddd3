"""Merge a LoRA into a copy of its base model. Run by `modules.trainer`, for the memory that it takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import transformers

from modules.core.events import Json
from modules.engines.hf.arguments import TOKENIZER, arguments, model_call
from modules.engines.hf.environment import likely_environment
from modules.engines.hf.model import load_tokenizer, progress_of_weights, python_arguments
from modules.engines.hf.model_folder import folder_for_transformers, in_folder
from modules.engines.training.job import MERGE
from modules.formats.weight_files import FORMATS

_LARGEST_OTHER_FILE = 100_000_000


@dataclass(frozen=True)
class MergeJob:
    """The base model with its load options, the adapter, and the folder to write, which must not exist."""

    base: Path
    options: Json
    adapter: Path
    target: Path

    @staticmethod
    def read(folder: Path) -> MergeJob:
        fields = json.loads((folder / MERGE).read_text(encoding="utf-8"))
        return MergeJob(Path(fields["base"]), fields["options"], Path(fields["adapter"]), Path(fields["target"]))


def merge(job: MergeJob, advance: Callable[[float], None]) -> None:
    """Write the model with B·A added to its weights, in the dtype in which they are stored."""
    calls = in_folder(
        arguments(job.base, {**job.options, "cpu": True}, likely_environment()), folder_for_transformers(job.base)
    )
    name, args = model_call(calls)
    args = {**args, "dtype": "auto", "device_map": {"": "cpu"}}
    load_tokenizer(calls[TOKENIZER])  # fails early if there is none
    with progress_of_weights(advance):
        module: Any = getattr(transformers, name).from_pretrained(**python_arguments(args))
    model: Any = peft.PeftModel.from_pretrained(module, str(job.adapter))
    merged = model.merge_and_unload(safe_merge=True)  # raises ValueError if a weight is no finite number
    merged.save_pretrained(str(job.target))
    for path in job.base.iterdir():
        if _is_other_file(path) and not (job.target / path.name).exists():
            shutil.copyfile(path, job.target / path.name)


def _is_other_file(path: Path) -> bool:
    """Whether a file belongs to the tokenizer or to the model's description, and not to its weights."""
    is_weights = path.suffix.lower() in FORMATS or path.name.endswith(".index.json")
    is_adapter = path.name.startswith("adapter_")
    return path.is_file() and not is_weights and not is_adapter and path.stat().st_size <= _LARGEST_OTHER_FILE
