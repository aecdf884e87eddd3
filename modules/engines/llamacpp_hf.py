"""llama.cpp's logits under transformers' samplers. What a load would do can be told without importing those."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.base import BatchingEngine, Report
from modules.engines.llamacpp import build
from modules.engines.llamacpp_hf_arguments import arguments, notes
from modules.events import Json
from modules.options import Value


def explain(path: Path, options: Mapping[str, Value]) -> Json:
    """The calls that loading would make, and what becomes of the options that cannot do what they say."""
    told = [{"option": note.option, "text": dict(note.text)} for note in notes(path, options, build())]
    return {"calls": arguments(path, options, build()), "notes": told}


def LlamaCppHF(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    """The engine; a function, so that `explain` needs none of what it imports."""
    from modules.engines.llamacpp_hf_loading import engine

    return engine(path, options, report)
