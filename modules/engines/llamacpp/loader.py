"""GGUF models through llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import BatchingEngine, Report
from modules.engines.llamacpp.arguments import Build, arguments
from modules.engines.llamacpp.notes import notes
from modules.options.option import Value


def installed_build() -> Build:
    """Return what the installed library can do. This imports llama_cpp, which takes a moment."""
    from modules.engines.llamacpp.library import installed_build

    return installed_build()


def _load(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine:
    from modules.engines.llamacpp.engine import LlamaCpp

    return LlamaCpp(path, options, report)


LOADER = EngineLoader("llama.cpp", installed_build, arguments, notes, _load)
