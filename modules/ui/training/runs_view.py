"""Describe runs as JSON for the page's script, and draw their curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from modules.app import App
from modules.core.events import Json
from modules.training.run import RunView
from modules.training.smoothing import smoothed
from modules.ui.charts import Labels, Series, line_chart
from modules.ui.locales import translator

_SHOWN = (
    *("name", "model", "created", "rows", "continues", "state", "phase", "progress", "position", "waiting", "reason"),
    *("update", "updates", "seconds", "seconds_left", "memory", "gpu_memory", "loss", "smoothed", "eval_loss", "best"),
    *("learning_rate", "grad_norm", "checkpoint", "facts", "started", "ended", "adapter", "resumable", "error"),
)


def run_json(app: App, view: RunView, language: str) -> dict[str, Json]:
    """Return what the page shows of a run."""
    body = view.to_json(language)
    parameters = view.run.parameters
    exists = bool(view.adapter) and (app.loras.catalog.folder / view.adapter).is_dir()
    return {
        **{key: body[key] for key in _SHOWN},
        "adapter": view.adapter if exists else "",
        "data": str(parameters.get("dataset") or parameters.get("raw_text_file")),
        "rank": parameters.get("lora_rank"),
    }


def curves(log: Sequence[Json], language: str, logarithmic: bool = False) -> str:
    """Draw the loss of a run, raw and smoothed, its evaluations, and below them the learning rate."""
    tr = translator(language)
    updates = [entry for entry in log if entry["event"] == "update"]
    losses = [(float(entry["update"]), _number(entry["loss"])) for entry in updates]
    rates = [(float(entry["update"]), _number(entry["learning_rate"])) for entry in updates]
    evaluations = [(float(entry["update"]), _number(entry["loss"])) for entry in log if entry["event"] == "evaluation"]
    series = [Series(tr("tr_loss"), losses, "faint", color=0), Series(tr("tr_smoothed"), smoothed(losses), color=0)]
    if evaluations:
        series.append(Series(tr("tr_eval_loss"), evaluations, "dots", color=1))
    labels = Labels(tr("tr_curve"), tr("tr_curve_info"), tr("tr_update"), tr("tr_loss"))
    rate_labels = Labels(tr("tr_rate"), "", tr("tr_update"), tr("tr_rate"))
    rate = line_chart([Series(tr("tr_rate"), rates, color=2)], rate_labels, tr, table=False) if rates else ""
    return line_chart(series, labels, tr, log=logarithmic) + rate


def _number(value: Json) -> float:
    return float(value) if value is not None else math.nan
