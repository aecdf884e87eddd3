"""Transformers: models of PyTorch weights. What a load would do can be told without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.core.events import Json
from modules.engines.engine_protocol import BatchingEngine, Report
from modules.engines.hf.arguments import Environment, arguments
from modules.engines.hf.environment import likely_environment
from modules.engines.hf.notes import notes
from modules.options.option import Value
from modules.system import gpus


def explain(path: Path, options: Mapping[str, Value]) -> Json:
    """The calls that loading would make, and what becomes of the options that cannot do what they say."""
    environment = likely_environment()
    told = [{"option": note.option, "text": dict(note.text)} for note in notes(path, options, environment)]
    return {"calls": arguments(path, options, environment), "notes": told}


def Transformers(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    """The engine; a function, so that `explain` needs none of what it imports."""
    hidden = _without_cards() if options["cpu"] else None
    from modules.engines.hf.build import engine, this_machine

    return engine(path, options, hidden or this_machine(), report)


def _without_cards() -> Environment:
    """What there is, of whose cards PyTorch, once imported, will see none: gptqmodel would choose kernels of theirs,
    for layers in main memory as well."""
    environment = likely_environment()
    gpus.hide()
    return environment
