"""Reports of a training process change the run; unknown ones change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.events import Json
from modules.training.progress import TrainingProgress
from modules.training.run import RunFacts, RunFolder, RunView


def test_each_event_changes_what_it_is_about(tmp_path: Path, subtests: pytest.Subtests) -> None:
    view = RunView(RunFacts("a", "model", "/model", "safetensors", "", "", 5, {}, {}, 0.0), "running")
    progress = TrainingProgress(RunFolder(tmp_path))
    events: list[tuple[Json, dict[str, Json]]] = [
        ({"event": "phase", "phase": "weights"}, {"phase": "weights", "progress": 0.0}),
        ({"event": "weights", "done": 0.5}, {"progress": 0.5}),
        ({"event": "facts", "rows": 5}, {"facts": {"rows": 5}}),
        ({"event": "checkpoint", "update": 3}, {"checkpoint": 3}),
        ({"event": "evaluation", "update": 3, "loss": 1.5}, {"eval_loss": 1.5, "best": (3, 1.5)}),
        ({"event": "news", "update": 3}, {}),
    ]
    for event, changes in events:
        with subtests.test(event=event["event"]):
            assert progress.changes(view, event) == changes
    assert not progress.has_begun
    begun = progress.changes(view, {"event": "begin", "update": 6, "updates": 12, "seconds": 2.0})
    assert progress.has_begun and (begun["update"], begun["updates"]) == (6, 12)
