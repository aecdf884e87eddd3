"""The module that the registry row names: load a model, and explain what loading would do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import Report, SerialEngine
from modules.options.option import Value
from tests.support.echo_loader.arguments import arguments, notes


def _load(path: Path, options: Mapping[str, Value], report: Report) -> SerialEngine:
    from tests.support.echo_loader.engine import Echo  # Imported late, so that explaining does not import the backend.

    return Echo(path, options, report)


LOADER = EngineLoader[None]("Echo", environment=lambda: None, arguments=arguments, notes=notes, load=_load)
