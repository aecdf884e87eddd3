"""GPTQ models through auto-gptq 0.7.1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.autogptq.arguments import arguments
from modules.engines.autogptq.notes import notes
from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import BatchingEngine, Report
from modules.engines.hf.environment import likely_environment
from modules.options.option import Value


def _load(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    from modules.engines.autogptq.build import engine

    return engine(path, options, report)


LOADER = EngineLoader("AutoGPTQ", likely_environment, arguments, notes, _load)
