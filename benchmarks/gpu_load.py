"""Load one model for `gpu.py` as server.py does, let it answer and score tokens; print the figures as one JSON object.

`python benchmarks/gpu_load.py REQUEST` in a process of its own, so that a crash or a time limit ends nothing else. The
plan, the worker and the operations are those of a load by the page. With "cpu" in the request, all GPUs are hidden.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from gpu_stages import Request
from program import ROOT

sys.path.insert(0, str(ROOT))
from modules.app import App
from modules.config import flags
from modules.core.events import Done, Text
from modules.core.prompt import Prompt
from modules.engines.loglikelihoods import Loglikelihoods
from modules.loaders import generation_settings
from modules.options.load import OPTIONS
from modules.planning.load_request import LoadRequest
from modules.runtime.loaded_model import LoadedModel
from modules.system.gpus import hide_gpus, nvidia_gpus

SEED = 23
PROMPT = "The lighthouse keeper climbed the stairs, as he had done every evening for thirty years. " * 6


def main() -> None:
    request = Request(**json.loads(sys.argv[1]))
    if request.cpu:
        hide_gpus()
    print(json.dumps(run(request)), flush=True)


def run(request: Request) -> dict[str, Any]:
    """Return the figures of one load."""
    folder = Path(request.models)
    settings = folder / "settings.yaml"
    settings.touch()
    folders = ("--model-dir", str(folder), "--logs-dir", str(folder / "logs"))
    app = App(flags.parse([*folders, "--settings", str(settings)]))
    plan = app.planner.plan(LoadRequest(app.record(request.model), request.loader, request.options))
    estimate = app.memory.fit(plan)
    used_before, began = _used(), time.monotonic()
    model = app.loading.load(plan)
    with closing(app.models):
        load_seconds = time.monotonic() - began
        figures = _answer(model, request.answer) | _speed_of_prompt(model)
        logprobs = _score(model, request)
        return {
            "loader": plan.loader.name,
            "options": {key: value for key, value in plan.options.items() if value != OPTIONS[key].default},
            "load_seconds": round(load_seconds, 2),
            "notes": [note.text["en"] for note in model.info.notes],
            **figures,
            "memory": _memory(estimate, used_before, model),
            "logprobs": [round(one, 5) for one in logprobs],
        }


def _used() -> list[int]:
    """Return the bytes in use on each GPU, by all processes."""
    return [] if os.environ.get("CUDA_VISIBLE_DEVICES") == "-1" else [gpu.total - gpu.free for gpu in nvidia_gpus()]


def _memory(estimate: Any, before: Sequence[int], model: LoadedModel) -> dict[str, Any]:
    """Compare the estimate with what the worker has taken, in bytes, after it has answered."""
    parts = [] if estimate is None else estimate.parts
    measured = [max(after - first, 0) for after, first in zip(_used(), before, strict=True)]
    expected = [part.need.total for part in parts]
    return {
        "estimated": {"main": expected[0] if expected else None, "gpus": expected[1:]},
        "measured": {"main": model.memory, "gpus": measured},
        "gpu_ratio": round(sum(expected[1:]) / sum(measured), 3) if sum(measured) and sum(expected[1:]) else None,
    }


def _answer(model: LoadedModel, tokens: int) -> dict[str, Any]:
    """Generate the likeliest tokens after a short prompt, twice: the first time, kernels may be compiled."""
    params = generation_settings.resolve({"temperature": 0, "max_new_tokens": tokens, "ban_eos_token": True})
    rates, texts = [], []
    for _ in range(2):
        text, done = "", Done("")
        for event in model.generate(Prompt("Once upon a time"), params):
            text += event.text if isinstance(event, Text) else ""
            done = event if isinstance(event, Done) else done
        texts.append(text)
        rates.append((done.completion_tokens - 1) / done.decode_seconds if done.decode_seconds else 0.0)
    return {
        "answer": texts[1][:80],
        "repeatable": texts[0] == texts[1],
        "generated_tokens": done.completion_tokens,
        "tokens_per_second": round(rates[1], 1),
    }


def _speed_of_prompt(model: LoadedModel) -> dict[str, Any]:
    """Read a prompt that the cache does not have; its first token is generated."""
    params = generation_settings.resolve({"temperature": 0, "max_new_tokens": 1})
    done = next(event for event in model.generate(Prompt(PROMPT), params) if isinstance(event, Done))
    read = done.prompt_tokens - done.cached_tokens
    rate = read / done.prompt_seconds if done.prompt_seconds else 0.0
    return {"prompt_tokens": read, "prompt_tokens_per_second": round(rate, 1)}


def _score(model: LoadedModel, request: Request) -> Sequence[float]:
    """Return the log-probability of each of the same random tokens."""
    source = random.Random(SEED)
    tokens = [source.randrange(request.vocabulary) for _ in range(request.scored + 1)]
    return Loglikelihoods.from_json(model.ask("loglikelihoods", tokens=tokens, first=1)).logprobs


if __name__ == "__main__":
    main()
