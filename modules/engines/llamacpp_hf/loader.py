"""llama.cpp's logits under transformers' samplers. What a load would do can be told without importing those."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.core.events import Json
from modules.engines.engine_protocol import BatchingEngine, Report
from modules.engines.llamacpp.library import installed_build
from modules.engines.llamacpp_hf.arguments import arguments, notes
from modules.options.option import Value


def explain(path: Path, options: Mapping[str, Value]) -> Json:
    """The calls that loading would make, and what becomes of the options that cannot do what they say."""
    told = [{"option": note.option, "text": dict(note.text)} for note in notes(path, options, installed_build())]
    return {"calls": arguments(path, options, installed_build()), "notes": told}


def LlamaCppHF(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    """The engine; a function, so that `explain` needs none of what it imports."""
    from modules.engines.llamacpp_hf.build import engine

    return engine(path, options, report)
