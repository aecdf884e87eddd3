"""Fixtures for tests of training runs, whose processes are a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import both
from modules.runtime.turns import Turns
from modules.training.runs import TrainingRuns
from tests.support.training_runs import Start, request


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[TrainingRuns]:
    made = TrainingRuns(tmp_path / "runs", tmp_path / "loras", "tests.support.echo_trainer")
    yield made
    made.close()


@pytest.fixture
def start(runs: TrainingRuns, tmp_path: Path) -> Start:
    """Start a run with a LoRA of that name, for a model whose name controls the stand-in."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")

    def begin(lora: str, model_name: str = "model", **parameters: Any) -> str:
        return runs.start(request(model, lora, model_name, **parameters))

    return begin


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[TrainingRuns]:
    """Runs that wait for their turn, which does not come, so that no process is started."""
    turns = Turns()
    at_work = turns.queue(both("x"))
    made = TrainingRuns(tmp_path / "runs", tmp_path / "loras", "tests.support.no_such_module", turns)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    yield made
    made.close()
    at_work.end()
