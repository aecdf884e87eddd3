"""The engine of a row of the loader registry: the object that loads a model, or explains what a load would do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from modules.core.errors import WebUIError
from modules.core.events import Json, Note
from modules.engines.engine_protocol import BatchingEngine, Report, SerialEngine, TextEngine
from modules.options.option import Value

Environment = TypeVar("Environment")
Options = Mapping[str, Value]


@dataclass(frozen=True)
class EngineLoader(Generic[Environment]):
    """Loads a model in a worker, or explains what loading it would do.

    `environment` finds out what there is to compute with, cheaply. `arguments` returns the backend's calls for the
    model at a path, and `notes` explains options that have no effect or another one; both depend on nothing but their
    parameters. `load` makes the engine; it alone imports the backend, so that explaining takes no seconds. `refusal`
    returns why a load would fail whatever else is in memory, None if nothing is known against it.
    """

    name: str
    environment: Callable[[], Environment]
    arguments: Callable[[Path, Options, Environment], Mapping[str, Json]]
    notes: Callable[[Path, Options, Environment], Iterable[Note]]
    load: Callable[[Path, Options, Report], BatchingEngine | SerialEngine | TextEngine]
    refusal: Callable[[Path, Options, Environment], WebUIError | None] = lambda path, options, environment: None

    def explain(self, path: Path, options: Options) -> Json:
        """Return the calls that loading would make, and the notes on options, as JSON. Nothing is loaded.

        "refused" is the error with which it would fail, if that is known.
        """
        environment = self.environment()
        notes = [{"option": note.option, "text": dict(note.text)} for note in self.notes(path, options, environment)]
        refused = self.refusal(path, options, environment)
        facts = {"refused": refused.to_json()} if refused else {}
        return {"calls": self.arguments(path, options, environment), "notes": notes, **facts}
