"""Workers with a llama.cpp model of four slots, in three sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.runtime.worker_process import WorkerProcess
from tests.conftest import LLAMA
from tests.support.llama_requests import OPTIONS, check_idle
from tests.support.shallow_gguf import shallow_gguf
from tests.support.worker_pool import WorkerPool


@pytest.fixture(scope="module")
def shallow_llama(smollm2: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    """A worker with the demo model's first layers: slow enough for requests to arrive during an answer."""
    with workers.lease(shallow_gguf(smollm2), LLAMA, **OPTIONS) as pooled:
        yield pooled.worker


@pytest.fixture(scope="module")
def tiny_llama(tiny: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    """A worker with the tiny model, for many tokens and for exact answers, because it computes in full precision."""
    with workers.lease(tiny, LLAMA, **OPTIONS) as pooled:
        yield pooled.worker


@pytest.fixture
def whole_llama(smollm2: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    with workers.lease(smollm2, LLAMA, **OPTIONS) as pooled:
        yield pooled.worker


@pytest.fixture(autouse=True)
def _check_slots(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check after every test that all slots are idle."""
    workers = [
        request.getfixturevalue(name)
        for name in ("shallow_llama", "tiny_llama", "whole_llama")
        if name in request.fixturenames
    ]
    yield
    for worker in workers:
        check_idle(worker)
