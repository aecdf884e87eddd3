"""Models of PyTorch weights through Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import BatchingEngine, Report, SerialEngine
from modules.engines.hf.arguments import Environment, ModelConfig, arguments
from modules.engines.hf.environment import likely_environment
from modules.engines.hf.notes import notes
from modules.options.option import Value
from modules.system import gpus, malloc

_FRAGMENTS_HEAP = ("load_in_8bit", "load_in_4bit", "use_eager_attention")
"""Options with which the C library's heap would grow by half at the load, and by another half at the next one."""


def _load(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine | SerialEngine:
    fragments = any(options[key] for key in _FRAGMENTS_HEAP)
    # Otherwise the weights that packed ones have replaced would stay in the heap.
    with malloc.return_freed_memory() if fragments else malloc.return_freed_memory(malloc.LARGEST):
        return _engine(path, options, report)


def _engine(path: Path, options: Mapping[str, Value], report: Report) -> BatchingEngine | SerialEngine:
    # Before torch is imported, which then sees no GPU.
    environment = _environment_with_hidden_gpus() if options["cpu"] else None
    from modules.engines.hf.build import engine, torch_environment

    if ModelConfig(path).task:
        from modules.engines.hf.embedding import embedding_engine

        return embedding_engine(path, options, environment or torch_environment(), report)
    return engine(path, options, environment or torch_environment(), report)


def _environment_with_hidden_gpus() -> Environment:
    """Hide the GPUs from PyTorch: gptqmodel would choose kernels for them, even for layers in main memory."""
    environment = likely_environment()
    gpus.hide_gpus()
    return environment


LOADER = EngineLoader("Transformers", likely_environment, arguments, notes, _load)
