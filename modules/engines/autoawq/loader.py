"""AWQ models through autoawq 0.2.9."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.autoawq.arguments import arguments
from modules.engines.autoawq.notes import notes
from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import BatchingEngine, Report
from modules.engines.hf.environment import likely_environment
from modules.options.option import Value


def _load(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    from modules.engines.autoawq.build import engine

    return engine(path, options, report)


LOADER = EngineLoader("AutoAWQ", likely_environment, arguments, notes, _load)
