"""Load plans for the test engine, whose models need no files, and helpers to load and ask such a model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.core.events import Text
from modules.core.prompt import Prompt
from modules.loaders.load_settings import resolve
from modules.loaders.registry import Loader
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.conftest import ECHO

SETTINGS = resolve(ECHO, model={}, saved={}, flags={}, form={"n_ctx": 77})


def record(name: str) -> ModelRecord:
    return ModelRecord(name, Path("/models") / name, "gguf", size=0)


def plan(name: str = "good", loader: Loader = ECHO) -> LoadPlan:
    return LoadPlan(record(name), loader, SETTINGS)


def load(manager: ModelManager, name: str = "good", loader: Loader = ECHO) -> LoadedModel:
    return manager.load(plan(name, loader))


def texts(model: LoadedModel, prompt: str) -> str:
    return "".join(event.text for event in model.generate(Prompt(prompt), {}) if isinstance(event, Text))


def wait_until(condition: Callable[[], object], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)
