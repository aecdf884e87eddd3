"""The tiny model, loaded as by a page, with few threads and a short context."""

from __future__ import annotations

from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.loaders.load_settings import resolve
from modules.runtime.load_plan import LoadPlan
from tests.conftest import LLAMA


def tiny_plan(path: Path) -> LoadPlan:
    settings = resolve(LLAMA, model={}, saved={}, flags={}, form={"n_ctx": 256, "threads": 1, "threads_batch": 1})
    return LoadPlan(ModelRecord("tiny", path, "gguf", size=0), LLAMA, settings)
