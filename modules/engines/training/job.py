"""The job of a training process: the base model, the data and the parameters. Both processes import this."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.core.events import Json
from modules.options.option import Value

JOB = "job.json"
"""The file in a run's folder that describes it to the training process."""
MERGE = "merge.json"
"""A file in its place: a LoRA is to be merged into a model."""
CHECKPOINTS, RESULT, LOG = "checkpoints", "result", "log.jsonl"
"""In the same folder: checkpoints, the finished adapter, and one line for each update and evaluation."""
WHOLE = "whole"
"""The file that is written last into a checkpoint: one without it was interrupted while it was being written."""


@dataclass(frozen=True)
class TrainingJob:
    """One training run.

    `base` is the folder of the base model and `name` what users call it; `options` are its load options. `train` and
    `validation` are files of rows (see `tokens`). `adapter` is one whose weights training starts from.
    """

    folder: Path
    base: Path
    name: str
    options: Mapping[str, Value]
    parameters: Mapping[str, Value]
    train: Path
    validation: Path | None = None
    adapter: Path | None = None

    def to_json(self) -> Json:
        """Return what `read` reads."""
        return {
            "base": str(self.base),
            "name": self.name,
            "options": dict(self.options),
            "parameters": dict(self.parameters),
            "train": str(self.train),
            "validation": str(self.validation) if self.validation else None,
            "adapter": str(self.adapter) if self.adapter else None,
        }

    @staticmethod
    def read(folder: Path) -> TrainingJob:
        """Read the job of the run in `folder`."""
        fields = json.loads((folder / JOB).read_text(encoding="utf-8"))
        validation, adapter = fields["validation"], fields["adapter"]
        return TrainingJob(
            folder=folder,
            base=Path(fields["base"]),
            name=fields["name"],
            options=fields["options"],
            parameters=fields["parameters"],
            train=Path(fields["train"]),
            validation=Path(validation) if validation else None,
            adapter=Path(adapter) if adapter else None,
        )


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in the folder of checkpoints; None if there is none."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=update_of, default=None)


def update_of(checkpoint: Path) -> int:
    """Return the number of updates after which a checkpoint was written."""
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def read_log(path: Path) -> list[Json]:
    """Return the entries of a run's log. A line that was cut off, or is none of a log, ends it."""
    entries: list[Json] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                figures = [float(entry[key]) for key in _NUMBERS[entry["event"]]]  # "nan" is written as a text
            except (ValueError, KeyError, TypeError, RecursionError):
                break
            if not figures[0].is_integer():
                break
            entries.append({**entry, "update": int(figures[0])})
    return entries


_NUMBERS = {
    "update": ("update", "loss", "grad_norm", "learning_rate", "seconds", "memory", "gpu_memory"),
    "evaluation": ("update", "loss"),
}
