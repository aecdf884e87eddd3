"""Transformers checkpoints through vLLM, which is started as a server and used as one that runs already."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from modules.core.errors import Unsupported
from modules.core.events import Info, Json, Progress
from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import Report, SerialEngine, TextEngine
from modules.engines.vllm.arguments import (
    COMMAND,
    ENVIRONMENT,
    arguments,
    child_environment,
    context_length,
    is_headless,
    is_own_installation,
    machine_count,
)
from modules.engines.vllm.environment import likely_environment
from modules.engines.vllm.machines import lasting_refusal, lines_for_others, refusal
from modules.engines.vllm.notes import notes
from modules.options.option import Value

NAME = "vLLM"
MOST_STREAMS = 512
FIRST_TOKEN_SECONDS = 600
"""Longest wait for the first token: requests wait inside vLLM if it computes as many as it can."""

Options = Mapping[str, Value]


def served_options(path: Path, options: Options) -> dict[str, Value]:
    """Return the options of a client of our own server, those of the loader Remote."""
    return {
        "server_url": "",
        "server_model": path.name,
        "server_kind": "vllm",
        "server_prompts": "text",
        "server_key_env": "",
        "server_ca": "",
        "server_streams": int(options["max_num_seqs"]) or MOST_STREAMS,
        "server_timeout": FIRST_TOKEN_SECONDS,
        "resume_stream": False,  # this process ends with the server
        "n_ctx": 0,
    }


def refuse_loras(adapters: Sequence[Mapping[str, Json]]) -> list[float]:
    """Answer the operation "apply_loras" of a server that was started without room for any."""
    if any(adapter["weight"] for adapter in adapters):
        raise Unsupported(
            {
                "en": "vLLM reserves memory for LoRAs when it starts. Turn on enable_lora and load the model again.",
                "zh": "vLLM 在启动时为 LoRA 预留内存。请勾选“启用 LoRA”后重新加载模型。",
            }
        )
    return [0.0] * len(adapters)


def _load(path: Path, options: Options, report: Report) -> TextEngine | SerialEngine:
    from modules.engines.served.engine import ServedEngine
    from modules.engines.vllm.headless import HeadlessEngine
    from modules.engines.vllm.server_process import ServerProcess

    environment = likely_environment()
    if (refused := refusal(path, options, environment)) is not None:
        raise refused
    calls = arguments(path, options, environment)
    variables = child_environment(calls[ENVIRONMENT], is_own_installation(options, environment))
    others = tuple(lines_for_others(path, options))
    report(Progress("machines" if machine_count(options) > 1 else "server", 0.0, others))
    server = ServerProcess(calls[COMMAND], variables, report)
    remarks = tuple(notes(path, options, environment))
    if is_headless(options):
        server.wait_until_computing(NAME, path.name)
        server.end_with()
        return HeadlessEngine(Info(context_length(path, options), notes=remarks), str(options["master_addr"]))
    server.wait_until_ready(NAME, path.name)
    engine = ServedEngine.open(server.target, served_options(path, options), report)
    server.end_with()
    if not options["enable_lora"]:
        engine.operations = {**engine.operations, "apply_loras": refuse_loras}
    engine.info = dataclasses.replace(engine.info, notes=(*engine.info.notes, *remarks), memory=server.memory())
    return engine


LOADER = EngineLoader(NAME, likely_environment, arguments, notes, _load, lasting_refusal)
