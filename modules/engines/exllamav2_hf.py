"""ExLlamaV2's logits under transformers' samplers. What a load would do can be told without importing either."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.base import BatchingEngine, Report
from modules.engines.exllamav2_arguments import arguments
from modules.engines.exllamav2_machine import likely_here
from modules.engines.exllamav2_notes import notes
from modules.events import Json
from modules.options import Value


def explain(path: Path, options: Mapping[str, Value]) -> Json:
    """The calls that loading would make, and what becomes of the options that cannot do what they say."""
    here = likely_here()
    told = [{"option": note.option, "text": dict(note.text)} for note in notes(path, options, here)]
    return {"calls": arguments(path, options, here), "notes": told}


def ExLlamav2HF(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    """The engine; a function, so that `explain` needs none of what it imports."""
    from modules.engines.exllamav2_loading import found

    here = found(report)  # before anything imports ExLlamaV2, for that may take minutes
    from modules.engines.exllamav2_hf_loading import engine

    return engine(path, options, here, report)
