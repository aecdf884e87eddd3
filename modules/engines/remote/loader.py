"""Models on servers that run already: vLLM, SGLang, llama-server, Ollama, or any with OpenAI's API."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import Report, TextEngine
from modules.engines.remote.arguments import Environment, arguments, certificates
from modules.engines.remote.notes import notes
from modules.formats.server_keys import find_key
from modules.options.option import Value


def _environment() -> Environment:
    return os.environ


def _load(path: Path, options: Mapping[str, Value], report: Report) -> TextEngine:
    from modules.engines.served.engine import ServedEngine
    from modules.engines.served.target import Target

    url = str(options["server_url"])
    key = find_key(path.parent, url, str(options["server_key_env"]), os.environ)
    return ServedEngine.open(Target.parse(url, key, certificates(path, options)), options, report)


LOADER = EngineLoader("Remote", _environment, arguments, notes, _load)
