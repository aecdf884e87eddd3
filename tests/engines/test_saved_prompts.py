"""Prompts that are in files: an engine that is opened again goes on where the one before it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.core.prompt import PRIVATE
from modules.loaders.registry import Loader
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import LLAMA, TRANSFORMERS, load
from tests.support.answers import answer, ask, forget, parameters
from tests.support.llama_requests import LONG, OPTIONS, assert_same_answer, describe_cache
from tests.support.worker_pool import WorkerPool

QUESTION = " And then the sea"
MAX_BYTES = 1 << 30


def open_model(worker: WorkerProcess, path: Path, folder: Path, loader: Loader, **options: object) -> None:
    load(worker, path, loader, **options)
    ask(worker, "keep_prompts", folder=str(folder), max_bytes=MAX_BYTES)


@pytest.fixture
def second(tiny: Path, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker that is started after the first one has answered LONG and was closed."""
    first = WorkerProcess()
    open_model(first, tiny, tmp_path / "prompts", LLAMA, **OPTIONS)
    answer(first, LONG, max_new_tokens=4)
    first.close()
    worker = WorkerProcess()
    yield worker
    worker.close()


def test_llama_cpp_goes_on_with_a_conversation_of_a_worker_that_has_ended(
    second: WorkerProcess, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "prompts"
    (file,) = folder.iterdir()
    open_model(second, tiny, folder, LLAMA, **OPTIONS, alpha_value=2)
    assert answer(second, LONG + QUESTION, max_new_tokens=1).done.cached_tokens == 0
    without_effect = {"parallel": 2, "n_batch": 256, "n_ctx": 1536}
    open_model(second, tiny, folder, LLAMA, **OPTIONS | without_effect)
    again = answer(second, LONG + QUESTION, max_new_tokens=8, top_logprobs=10)
    length = ask(second, "count", text=LONG)
    assert again.done.cached_tokens >= length - 1 > 256
    forget(second)
    file.unlink()
    cold = answer(second, LONG + QUESTION, max_new_tokens=8, top_logprobs=10)
    assert cold.done.cached_tokens == 0
    assert_same_answer(again, cold)
    assert not any(slot["busy"] for slot in describe_cache(second)["slots"])
    list(second.events("generate", prompt="A secret. " + LONG, params={**parameters(max_new_tokens=1), PRIVATE: True}))
    second.close()
    assert list(folder.glob("*.kv")) == [], "nothing is saved after a private prompt"


def test_transformers_saves_a_conversation_while_it_is_idle(
    workers: WorkerPool, tiny_folder: Path, tmp_path: Path
) -> None:
    worker, folder = workers.reloadable(), tmp_path / "prompts"
    open_model(worker, tiny_folder, folder, TRANSFORMERS)
    answer(worker, LONG, max_new_tokens=4)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.kv")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    open_model(worker, tiny_folder, folder, TRANSFORMERS)
    again = answer(worker, LONG + QUESTION, max_new_tokens=8, top_logprobs=10)
    assert again.done.cached_tokens >= ask(worker, "count", text=LONG) - 1
    load(worker, tiny_folder, TRANSFORMERS)
    cold = answer(worker, LONG + QUESTION, max_new_tokens=8, top_logprobs=10)
    assert cold.done.cached_tokens == 0 and again.text == cold.text
