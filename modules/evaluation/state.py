"""Snapshots of evaluations, for whoever shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from modules.core.errors import WebUIError, Words
from modules.evaluation.request import EvaluationRequest, Subject
from modules.evaluation.results import Row
from modules.evaluation.statistics import Interval, Perplexity

Phase = Literal["queued", "loading", "tokenizing", "evaluating", "done", "failed", "stopped"]
ENDED = ("done", "failed", "stopped")


@dataclass(frozen=True)
class Divergence:
    """Differences of the distributions of a model from those of the reference, on the first `windows` windows.

    `kl` is the mean Kullback-Leibler divergence in nats, `kl_99` its 99th percentile over tokens, `same_top` the share
    of tokens at which both find the same token the most likely.
    """

    kl: Interval
    kl_99: float
    same_top: Interval
    windows: int


@dataclass(frozen=True)
class Evaluation:
    """The result for one model. `loras` are weights by name; `bos` is the token that windows begin with, "" for none.

    `difference` is how much higher its mean loss is than that of `reference`, the first model, in nats per token; None
    for that one itself, and if the tokens differ, which `not_compared` then says. `hashes` are those of
    `results.HASH_COLUMNS`.
    """

    id: str
    model: str
    loader: str
    loras: Mapping[str, float]
    text: str
    perplexity: Perplexity
    bits_per_byte: float
    method: str
    stride: int
    length: int
    bos: str
    windows_hash: str
    date: str
    seconds: float
    hashes: Mapping[str, str]
    reference: str = ""
    difference: Interval | None = None
    divergence: Divergence | None = None
    not_compared: Words | None = None


@dataclass(frozen=True)
class SubjectState:
    """The state of one model of a run. `done` of `total` windows are scored.

    `perplexity` is that of the windows scored so far, `curve` what it was after each of them. `tested` is the row of
    the table because of which it was not evaluated again. With a `result`, `error` is why this is not in the table.
    """

    subject: Subject
    phase: Phase = "queued"
    done: int = 0
    total: int = 0
    perplexity: float = 0.0
    curve: tuple[float, ...] = ()
    error: WebUIError | None = None
    result: Evaluation | None = None
    tested: Row | None = None


@dataclass(frozen=True)
class RunState:
    """The state of one run."""

    id: str
    request: EvaluationRequest
    phase: Phase = "queued"
    subjects: tuple[SubjectState, ...] = ()
    seconds: float = 0.0

    @property
    def has_ended(self) -> bool:
        return self.phase in ENDED
