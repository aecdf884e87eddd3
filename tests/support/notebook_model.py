"""The tiny model, loaded as by a page, with few threads and a short context."""

from __future__ import annotations

from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.loaders.load_settings import resolve
from modules.loaders.registry import Loader
from modules.runtime.load_plan import LoadPlan
from tests.conftest import LLAMA


def tiny_plan(path: Path, loader: Loader = LLAMA) -> LoadPlan:
    few = {"n_ctx": 256, "threads": 1, "threads_batch": 1}
    form = {key: value for key, value in few.items() if key in loader.options}
    settings = resolve(loader, model={}, saved={}, flags={}, form=form)
    return LoadPlan(ModelRecord("tiny", path, "gguf" if path.is_file() else "safetensors", size=0), loader, settings)
