"""ExLlamaV2 with its own sampler. What a load would do can be told without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.core.events import Json
from modules.engines.engine_protocol import BatchingEngine, Report
from modules.engines.exllamav2.arguments import generator_arguments
from modules.engines.exllamav2.environment import likely_environment
from modules.engines.exllamav2.notes import generator_notes
from modules.options.option import Value


def explain(path: Path, options: Mapping[str, Value]) -> Json:
    """The calls that loading would make, and what becomes of the options that cannot do what they say."""
    environment = likely_environment()
    told = [{"option": note.option, "text": dict(note.text)} for note in generator_notes(path, options, environment)]
    return {"calls": generator_arguments(path, options, environment), "notes": told}


def ExLlamav2(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    """The engine; a function, so that `explain` needs none of what it imports."""
    from modules.engines.exllamav2.build import found

    environment = found(report)  # before anything imports ExLlamaV2, for that may take minutes
    from modules.engines.exllamav2.engine import Engine

    return Engine(path, options, environment, report)
