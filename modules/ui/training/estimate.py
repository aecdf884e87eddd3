"""Estimate an evaluation before it starts: its time from earlier ones, and its memory from the plans of its loads."""

from __future__ import annotations

import math

from modules.app import App
from modules.core.events import Json
from modules.evaluation.prepared import DEFAULT_LENGTH
from modules.evaluation.request import EvaluationRequest, Subject
from modules.evaluation.windows import CHUNK_LENGTH, CHUNKS
from modules.planning.load_request import LoadRequest

BYTES_PER_TOKEN = 3.5
"""Of usual tokenizers, in English and in Chinese UTF-8: only for texts that no model has been evaluated on."""


def estimate(app: App, request: EvaluationRequest) -> dict[str, Json]:
    """Return the seconds, None as long as no model of the request has been evaluated since the program started, and
    the memory of the models that have to be loaded.

    Raises what is wrong with the text or the models.
    """
    size = len(app.texts.read(request.text).text.encode())
    seconds = [_seconds(app, subject, request, size) for subject in request.subjects]
    known = [value for value in seconds if value is not None]
    return {
        "tokens": _tokens(app, request, size),
        "seconds": sum(known) / len(known) * len(seconds) if known else None,
        "models": [_memory(app, name) for name in dict.fromkeys(one.model for one in request.subjects if one.model)],
        "kl": request.kl,
    }


def _tokens(app: App, request: EvaluationRequest, size: int) -> int:
    """Return about how many tokens the text has."""
    name = request.text.removesuffix(".txt")
    for state in reversed(app.evaluations.state):
        for one in state.subjects:
            if one.result is not None and one.result.text.removesuffix(".txt") == name and not state.request.windows:
                return one.result.perplexity.tokens
    return max(round(size / BYTES_PER_TOKEN), 1)


def _seconds(app: App, subject: Subject, request: EvaluationRequest, size: int) -> float | None:
    """Return the seconds by the speed of the newest evaluation of the model."""
    name = subject.model or app.models.status.name
    for state in reversed(app.evaluations.state):
        for one in state.subjects:
            if one.result is not None and one.result.model == name and one.result.seconds > 0:
                computed = one.result.perplexity.windows * one.result.length
                return _computed(request, _tokens(app, request, size)) / computed * one.result.seconds
    return None


def _computed(request: EvaluationRequest, tokens: int) -> float:
    """Return how many tokens the model computes, those that are only context included."""
    length = request.max_length or (CHUNK_LENGTH if request.method == CHUNKS else DEFAULT_LENGTH)
    step = length if request.method == CHUNKS else min(request.stride, length)
    windows = max(math.ceil(tokens / step), 1)
    return min(windows, request.windows or windows) * length


def _memory(app: App, name: str) -> dict[str, Json]:
    """Return the bytes that a model needs on all devices, None if unknown, and whether they are free."""
    plan = app.planner.plan(LoadRequest(app.record(name), ""))
    fit = app.memory.fit(plan)
    return {
        "name": name,
        "bytes": None if fit is None else sum(part.need.total for part in fit.parts),
        "short": fit is not None and fit.short,
    }
