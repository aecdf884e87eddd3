"""Ask workers for log-likelihoods, and compute those that are expected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modules.engines.loglikelihoods import Loglikelihoods
from modules.runtime.worker_process import WorkerProcess


def evaluate(worker: WorkerProcess, tokens: Sequence[int], first: int = 1, **files: Path) -> Loglikelihoods:
    """Return the result of the operation "loglikelihoods"; `files` may be `keep` and `against`."""
    names = {name: str(path) for name, path in files.items()}
    return Loglikelihoods.from_json(worker.call("loglikelihoods", tokens=list(tokens), first=first, **names))


def expected_logprobs(logits: NDArray[np.float32], tokens: Sequence[int], first: int = 1) -> NDArray[np.float64]:
    """Return the log-probabilities of `tokens[first:]` by logits [tokens, vocabulary] after every token."""
    rows = logits[first - 1 : len(tokens) - 1].astype(np.float64)
    return rows[np.arange(len(rows)), list(tokens[first:])] - np.logaddexp.reduce(rows, axis=1)
