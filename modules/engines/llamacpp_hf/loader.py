"""GGUF models through llama.cpp, sampled by the Transformers samplers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import BatchingEngine, Report
from modules.engines.llamacpp.loader import installed_build
from modules.engines.llamacpp_hf.arguments import arguments
from modules.engines.llamacpp_hf.notes import notes
from modules.options.option import Value


def _load(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    from modules.engines.llamacpp_hf.build import engine

    return engine(path, options, report)


LOADER = EngineLoader("llamacpp_HF", installed_build, arguments, notes, _load)
