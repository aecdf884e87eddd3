"""EXL2 and GPTQ models through ExLlamaV2 with its own sampler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import BatchingEngine, Report
from modules.engines.exllamav2.arguments import generator_arguments
from modules.engines.exllamav2.environment import likely_environment
from modules.engines.exllamav2.notes import generator_notes
from modules.options.option import Value


def _load(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    from modules.engines.exllamav2.build import import_exllamav2

    environment = import_exllamav2(report)  # first of all, because it may compile the kernels for minutes
    from modules.engines.exllamav2.engine import Engine

    return Engine(path, options, environment, report)


LOADER = EngineLoader("ExLlamav2", likely_environment, generator_arguments, generator_notes, _load)
