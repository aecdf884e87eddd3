"""A loader of a model on a server, for tests: its engine asks for the server's health all the time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import Report, TextEngine
from modules.engines.served import health
from modules.engines.served.engine import ServedEngine
from modules.engines.served.target import Target
from modules.options.option import Value

OPTIONS: Mapping[str, Value] = {
    "server_model": "m",
    "server_kind": "vllm",
    "server_prompts": "auto",
    "n_ctx": 0,
    "server_streams": 4,
    "server_timeout": 5.0,
    "resume_stream": True,
}


def _load(path: Path, options: Mapping[str, Value], report: Report) -> TextEngine:
    health.INTERVAL_SECONDS = 0.02
    return ServedEngine.open(Target.parse(str(options["server_url"])), OPTIONS, report)


LOADER = EngineLoader[None](
    "Served",
    environment=lambda: None,
    arguments=lambda path, options, _environment: {},
    notes=lambda _path, _options, _environment: (),
    load=_load,
)
