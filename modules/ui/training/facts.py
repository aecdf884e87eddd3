"""Describe a run before it starts: rows, updates, memory, time, and what would make it fail or learn nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from modules.app import App
from modules.chat.errors import TemplateNotFound
from modules.core.errors import ModelNotFound, ModelProblem, OptionError, Unsupported, WebUIError, Words
from modules.core.events import Json
from modules.core.training_errors import AdapterExists, CannotTrain, RunBusy
from modules.engines.training.arguments import schedule
from modules.options.option import Value
from modules.training.dataset.errors import (
    BadRows,
    DatasetNotFound,
    FormatNotFound,
    InvalidFormat,
    NothingToTrain,
    UnreadableDataset,
)
from modules.training.dataset.prepare import Prepared
from modules.training.fit import FEW_UPDATES, fitted
from modules.training.parameters import PARAMETERS
from modules.training.preview import Previews
from modules.training.run import RunView
from modules.training.service import PlannedRun

_FIELDS: tuple[tuple[type[WebUIError], str], ...] = (
    (AdapterExists, "lora_name"),
    (RunBusy, "lora_name"),
    (CannotTrain, "model"),
    (ModelNotFound, "model"),
    (ModelProblem, "model"),
    (Unsupported, "base_weights"),
    (BadRows, "skip_bad_rows"),
    (FormatNotFound, "format"),
    (InvalidFormat, "format"),
    (TemplateNotFound, "instruction_template"),
    (DatasetNotFound, "dataset"),
    (UnreadableDataset, "dataset"),
    (NothingToTrain, "dataset"),
)
"""The parameter to change, by the kind of error."""
_UNNAMED = "unnamed"
_BASE_ALONE: Words = {
    "en": "LoRAs applied to the loaded model do not count: the base model alone is trained.",
    "zh": "已加载模型上应用的 LoRA 不参与训练，仅以基础模型为起点。",
}


def field_of(error: WebUIError, parameters: Mapping[str, object]) -> str:
    """Return the parameter that an error is about; "" if it is about none."""
    if isinstance(error, OptionError):
        return error.option if error.option in PARAMETERS else ""
    field = next((field for kind, field in _FIELDS if isinstance(error, kind)), "")
    if isinstance(error, (DatasetNotFound, UnreadableDataset)):
        file = error.name if isinstance(error, DatasetNotFound) else error.file
        if file and file == parameters.get("eval_dataset") != parameters.get("dataset"):
            return "eval_dataset"
    return "raw_text_file" if field == "dataset" and parameters.get("raw_text_file") else field


class RunFactsReader:
    """Reads the facts of runs that could start. What was read last of the data is kept until something changes."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._previews = Previews()
        self._lock = threading.Lock()
        self._kept: tuple[object, Prepared] | None = None

    def facts(self, raw: Mapping[str, object]) -> dict[str, Json]:
        """Return what the page shows before a run starts. Raises what `Training.plan` and `Training.prepare` raise."""
        planned = self._app.training.plan(_named(raw))
        prepared = self.prepared(planned)
        parameters, rows = planned.parameters, len(prepared.training)
        plan = schedule(parameters, rows, validates=bool(prepared.evaluation))
        memory = self._app.training.memory_of(planned, prepared)
        return {
            "rows": rows,
            "total": prepared.file.total,
            "evaluation": len(prepared.evaluation),
            "bad": prepared.file.bad_count,
            "raw": any(sample.raw for sample in prepared.training),
            "updates": plan.updates,
            "warmup": plan.warmup,
            "few": plan.updates < FEW_UPDATES and not any(sample.raw for sample in prepared.training),
            "fitted": fitted(parameters, rows),
            "memory": memory.total if memory else 0,
            "seconds": self._seconds(planned, plan.updates),
            "notes": [dict(note) for note in (*prepared.notes, *self._applied(planned))],
        }

    def _applied(self, planned: PlannedRun) -> list[Words]:
        """Say that LoRAs of the loaded model are no part of the base that is trained."""
        status = self._app.models.status
        return [_BASE_ALONE] if status.loras and status.name == planned.record.name else []

    def prepared(self, planned: PlannedRun) -> Prepared:
        """Return the data of a run. Raises what `Training.prepare` raises."""
        key = self._key(planned)
        with self._lock:
            if self._kept is None or self._kept[0] != key:
                self._kept = (key, self._app.training.prepare(planned))
            return self._kept[1]

    def preview(self, raw: Mapping[str, object], seed: int) -> dict[str, Json]:
        """Return the data token by token; see `Previews.preview`. Bad rows are no error here."""
        planned = self._app.training.plan({**raw, "lora_name": _UNNAMED})
        data = self._app.training.data
        template = data.template_of(planned.record, str(planned.parameters["instruction_template"]))
        prepared = data.prepare(planned.parameters, template)
        found = self._previews.preview(planned.record, planned.options, planned.parameters, prepared, seed)
        return dict(found)

    def _key(self, planned: PlannedRun) -> object:
        """Return what differs once the data would be prepared differently."""
        parameters = planned.parameters
        used = [parameters[key] for key, option in PARAMETERS.items() if option.group in ("data", "raw")]
        folder = self._app.training.data.datasets.folder
        names = [str(parameters[key]) for key in ("dataset", "raw_text_file", "eval_dataset")]
        return planned.record.name, used, [_stamps(folder, name) for name in names if name]

    def _seconds(self, planned: PlannedRun, updates: int) -> float | None:
        """Estimate the time from an earlier run of the same model with the same data; None if there is none."""
        parameters = planned.parameters
        for view in self._app.training.runs.snapshot():
            if view.run.model == planned.record.name and _same_work(view, parameters):
                per_row = view.seconds / (view.update * int(view.run.parameters["batch_size"]))
                return per_row * int(parameters["batch_size"]) * updates
        return None


def _named(raw: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters with a name: the form has none at first, and it changes nothing here."""
    return {**raw, "lora_name": raw.get("lora_name") or _UNNAMED}


def _same_work(view: RunView, parameters: Mapping[str, Value]) -> bool:
    keys = ("dataset", "raw_text_file", "base_weights", "cpu")
    return view.update > 0 and all(view.run.parameters.get(key) == parameters[key] for key in keys)


def _stamps(folder: Path, name: str) -> object:
    """Return the size and the time of a dataset's files."""
    try:
        found = [path for path in folder.iterdir() if path.name == name or path.stem == name]
        files = [path for one in found for path in ([*one.iterdir()] if one.is_dir() else [one])]
        return [(path.name, os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in sorted(files)]
    except OSError:
        return None
