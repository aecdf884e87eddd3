"""ExLlamaV2's logits under transformers' samplers. What a load would do can be told without importing either."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.core.events import Json
from modules.engines.engine_protocol import BatchingEngine, Report
from modules.engines.exllamav2.arguments import arguments
from modules.engines.exllamav2.environment import likely_environment
from modules.engines.exllamav2.notes import notes
from modules.options.option import Value


def explain(path: Path, options: Mapping[str, Value]) -> Json:
    """The calls that loading would make, and what becomes of the options that cannot do what they say."""
    environment = likely_environment()
    told = [{"option": note.option, "text": dict(note.text)} for note in notes(path, options, environment)]
    return {"calls": arguments(path, options, environment), "notes": told}


def ExLlamav2HF(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    """The engine; a function, so that `explain` needs none of what it imports."""
    from modules.engines.exllamav2.build import found

    environment = found(report)  # before anything imports ExLlamaV2, for that may take minutes
    from modules.engines.exllamav2_hf.build import engine

    return engine(path, options, environment, report)
