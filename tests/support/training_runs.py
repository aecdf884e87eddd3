"""Helpers for tests of training runs: requests for them, and waiting for an update."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.catalog.record import ModelRecord
from modules.engines.training.samples import Sample
from modules.training.parameters import parse_parameters
from modules.training.runs import RunRequest, TrainingRuns

SECONDS = 20
SAMPLES = [Sample(row, (("Question?", False), (" Answer.", True)), eos=True) for row in range(1, 6)]
Start = Callable[..., str]


def request(model: Path, lora: str, model_name: str = "model", **parameters: Any) -> RunRequest:
    record = ModelRecord(model_name, model, "safetensors", 1)
    return RunRequest(record, {}, parse_parameters({"lora_name": lora, **parameters}), SAMPLES)


def reach(runs: TrainingRuns, name: str, update: int) -> None:
    until = time.monotonic() + SECONDS
    while runs.view(name).update < update:
        assert time.monotonic() < until
        time.sleep(0.01)
