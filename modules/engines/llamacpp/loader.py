"""GGUF models through llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.events import Json, Note
from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import BatchingEngine, Report, SerialEngine
from modules.engines.llamacpp.arguments import Build, arguments
from modules.engines.llamacpp.embedding_arguments import embedding_arguments, embedding_header, embedding_notes
from modules.engines.llamacpp.notes import notes
from modules.options.option import Value


def installed_build() -> Build:
    """Return what the installed library can do. This imports llama_cpp, which takes a moment."""
    from modules.engines.llamacpp.library import installed_build

    return installed_build()


def _arguments(path: Path, options: Mapping[str, Value], build: Build) -> Mapping[str, Json]:
    header = embedding_header(path)
    return embedding_arguments(path, options, build, header) if header else arguments(path, options, build)


def _notes(path: Path, options: Mapping[str, Value], build: Build) -> Iterator[Note]:
    return embedding_notes(path, options, build) if embedding_header(path) else notes(path, options, build)


def _load(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine | SerialEngine:
    if header := embedding_header(path):
        from modules.engines.llamacpp.embedding import LlamaEmbedding

        return LlamaEmbedding(path, options, header, report)
    from modules.engines.llamacpp.engine import LlamaCpp

    return LlamaCpp(path, options, report)


LOADER = EngineLoader("llama.cpp", installed_build, _arguments, _notes, _load)
