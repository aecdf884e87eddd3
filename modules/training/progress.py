"""Take in what a training process reports about its run."""

from __future__ import annotations

import time
from collections.abc import Mapping

from modules.core.events import Json
from modules.training.run import RunFolder, RunView, with_entry, with_log

_FIGURES = ("update", "loss", "average", "learning_rate", "grad_norm", "seconds", "memory", "gpu_memory")


class TrainingProgress:
    """The progress of one training process; `has_begun` is whether it has come to its first update."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._first, self._began = 0, 0.0  # the update and the time at which it began to train
        self.has_begun = False

    def changes(self, view: RunView, event: Mapping[str, Json]) -> dict[str, Json]:
        """Return the fields of `view` that an event of the process changes."""
        match event["event"]:
            case "phase":
                return {"phase": event["phase"], "progress": 0.0}
            case "weights":
                return {"progress": event["done"]}
            case "facts":
                return {"facts": {key: value for key, value in event.items() if key != "event"}}
            case "begin":
                return self._begin(view, event)
            case "checkpoint":
                return {"checkpoint": event["update"]}
            case "update":
                changed = with_entry(view, event)
                figures = {key: getattr(changed, key) for key in _FIGURES}
                return {**figures, "seconds_left": self._seconds_left(changed), "phase": "training"}
            case "evaluation":
                changed = with_entry(view, event)
                return {"eval_loss": changed.eval_loss, "best": changed.best}
        return {}

    def _begin(self, view: RunView, event: Mapping[str, Json]) -> dict[str, Json]:
        self._first, self._began, self.has_begun = int(event["update"]), time.monotonic(), True
        resumed = with_log(view, self._folder.log())  # without what came after the checkpoint
        figures = {key: getattr(resumed, key) for key in ("loss", "average", "eval_loss")}
        return {**figures, "update": event["update"], "updates": event["updates"], "seconds": event["seconds"]}

    def _seconds_left(self, view: RunView) -> float:
        done = max(view.update - self._first, 1)
        return (time.monotonic() - self._began) / done * max(view.updates - view.update, 0)
