"""EXL2 and GPTQ models through ExLlamaV2, sampled by the Transformers samplers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import BatchingEngine, Report
from modules.engines.exllamav2.arguments import arguments
from modules.engines.exllamav2.environment import likely_environment
from modules.engines.exllamav2.notes import notes
from modules.options.option import Value


def _load(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    from modules.engines.exllamav2.build import import_exllamav2

    environment = import_exllamav2(report)  # first of all, because it may compile the kernels for minutes
    from modules.engines.exllamav2_hf.build import engine

    return engine(path, options, environment, report)


LOADER = EngineLoader("ExLlamav2_HF", likely_environment, arguments, notes, _load)
