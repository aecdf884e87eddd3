"""AutoAWQ: models of AWQ under the package autoawq 0.2.9. What a load would do can be told without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.core.events import Json
from modules.engines.autoawq.arguments import arguments
from modules.engines.autoawq.notes import notes
from modules.engines.engine_protocol import BatchingEngine, Report
from modules.engines.hf.environment import likely_environment
from modules.options.option import Value


def explain(path: Path, options: Mapping[str, Value]) -> Json:
    """The calls that loading would make, and what becomes of the options that cannot do what they say."""
    environment = likely_environment()
    told = [{"option": note.option, "text": dict(note.text)} for note in notes(path, options, environment)]
    return {"calls": arguments(path, options, environment), "notes": told}


def AutoAWQ(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    """The engine; a function, so that `explain` needs none of what it imports."""
    from modules.engines.autoawq.build import engine

    return engine(path, options, report)
