"""The numbers of the server in Prometheus' text format, by llama-server's names where it has them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from modules.runtime.loaded_model import LoadedModel
from modules.runtime.resident import Resident
from modules.runtime.totals import Totals
from modules.system import cpu_memory

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Number = int | float
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def exposition(
    totals: Totals, models: Sequence[LoadedModel], residents: Sequence[Resident], waiting_requests: int
) -> str:
    """Return the numbers of all models together, then those of each model."""
    running = sum(min(model.generations, model.info.slots) for model in models)
    queued = sum(max(model.generations - model.info.slots, 0) for model in models) + waiting_requests
    evaluated = totals.prompt_tokens - totals.cached_tokens
    lines = [
        *_metric("llamacpp:prompt_tokens_total", "counter", "Prompt tokens processed.", evaluated),
        *_metric("llamacpp:prompt_seconds_total", "counter", "Seconds of prompt processing.", totals.prompt_seconds),
        *_metric("llamacpp:tokens_predicted_total", "counter", "Tokens generated.", totals.completion_tokens),
        *_metric("llamacpp:tokens_predicted_seconds_total", "counter", "Seconds of generation.", totals.decode_seconds),
        *_metric(
            "llamacpp:prompt_tokens_seconds",
            "gauge",
            "Average prompt throughput in tokens per second.",
            _rate(evaluated, totals.prompt_seconds),
        ),
        *_metric(
            "llamacpp:predicted_tokens_seconds",
            "gauge",
            "Average generation throughput in tokens per second.",
            _rate(totals.completion_tokens, totals.decode_seconds),
        ),
        *_metric("llamacpp:requests_processing", "gauge", "Generations that run.", running),
        *_metric("llamacpp:requests_deferred", "gauge", "Generations and requests that wait.", queued),
        *_metric("llamacpp:n_tokens_max", "counter", "Largest number of tokens in a context.", totals.longest),
        *_metric("text_studio_generations_total", "counter", "Generations begun.", totals.generations),
        *_metric("text_studio_generations_failed_total", "counter", "Generations that failed.", totals.failures),
        *_metric("text_studio_cached_tokens_total", "counter", "Prompt tokens found in a cache.", totals.cached_tokens),
        *_metric("text_studio_draft_tokens_total", "counter", "Draft tokens evaluated.", totals.drafted_tokens),
        *_metric(
            "text_studio_draft_tokens_accepted_total", "counter", "Draft tokens accepted.", totals.accepted_tokens
        ),
        *_metric(
            "text_studio_server_memory_bytes",
            "gauge",
            "Resident memory of the server's process.",
            cpu_memory.resident_memory(os.getpid()),
        ),
        *_by_model("text_studio_model_memory_bytes", "Resident memory of a model's process.", residents, "memory"),
        *_by_model("text_studio_model_generations", "Generations of a model, also queued.", residents, "generations"),
        *_states(residents),
    ]
    return "\n".join(lines) + "\n"


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds else 0.0


def _metric(name: str, kind: str, help: str, value: Number) -> Iterator[str]:
    yield from _header(name, kind, help)
    yield f"{name} {value}"


def _by_model(name: str, help: str, residents: Iterable[Resident], field: str) -> Iterator[str]:
    yield from _header(name, "gauge", help)
    for resident in residents:
        yield f"{name}{_labels({'model': resident.name})} {getattr(resident, field)}"


def _states(residents: Iterable[Resident]) -> Iterator[str]:
    name = "text_studio_model_state"
    yield from _header(name, "gauge", "1 for the state of a model: loading, ready, asleep or failed.")
    for resident in residents:
        yield f"{name}{_labels({'model': resident.name, 'state': resident.state})} 1"


def _header(name: str, kind: str, help: str) -> Iterator[str]:
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {kind}"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items()) + "}"
