"""Fit the schedule of a run to small data: enough updates for the LoRA to learn something."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modules.engines.training.arguments import schedule
from modules.options.option import Value

FEW_UPDATES = 30
"""A run of fewer updates hardly changes the model."""
ENOUGH_UPDATES = 60


def fitted(parameters: Mapping[str, Value], rows: int) -> dict[str, Value]:
    """Return the parameters to change so that `rows` give at least ENOUGH_UPDATES: smaller batches, then more epochs.

    Empty if they do already.
    """
    batch, epochs = int(parameters["batch_size"]), float(parameters["epochs"])
    micro = int(parameters["micro_batch_size"])
    if rows < 1 or schedule(parameters, rows).updates >= ENOUGH_UPDATES:
        return {}
    wanted = max(1, math.ceil(rows * epochs / ENOUGH_UPDATES))
    smaller = min(batch, max(wanted, min(batch, 4)))  # batches below 4 make the loss jump
    micro = next(size for size in range(min(micro, smaller), 0, -1) if smaller % size == 0)
    changed = {**parameters, "batch_size": smaller, "micro_batch_size": micro}
    missing = ENOUGH_UPDATES / schedule(changed, rows).updates
    if missing > 1:
        per_epoch = schedule({**changed, "epochs": 1.0}, rows).updates
        changed["epochs"] = float(math.ceil(ENOUGH_UPDATES / per_epoch))
    keys = ("batch_size", "micro_batch_size", "epochs")
    return {key: changed[key] for key in keys if changed[key] != parameters[key]}
