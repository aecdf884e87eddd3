"""Log-likelihoods of windows by ExLlamaV2's own Python code with the stand-ins for its compiled extensions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modules.core.errors import OptionError
from modules.core.worker_errors import PromptTooLong
from modules.runtime.worker_process import WorkerProcess
from tests.support.answers import Answer, answer, ask, forget
from tests.support.exl2_folder import exl2_folder
from tests.support.exl2_folder import plain as exl2_plain
from tests.support.exllamav2_worker import EXLLAMAV2, EXLLAMAV2_HF, exllamav2_worker, flash_worker
from tests.support.hf_logits import logits_of
from tests.support.log_likelihoods import evaluate, expected_logprobs
from tests.support.worker_pool import WorkerPool

TEXT = "The old harbour town lies between two hills, and in the morning the fishermen bring home what they caught. "
FLOAT16 = 0.05  # the largest error of a log-probability in float16


@pytest.fixture(scope="module")
def folder(shallow_folder: Path) -> Path:
    return exl2_folder(shallow_folder)


@pytest.fixture
def shallow(workers: WorkerPool, folder: Path) -> Iterator[WorkerProcess]:
    with workers.lease(folder, EXLLAMAV2, flash_worker, max_seq_len=1024, cfg_cache=True) as pooled:
        yield pooled.worker


@pytest.fixture
def tokens(shallow: WorkerProcess) -> list[int]:
    found: list[int] = ask(shallow, "encode", text=TEXT * 30)
    return found[:600]


def test_log_likelihoods_are_those_of_transformers_on_the_same_weights(
    shallow: WorkerProcess, folder: Path, tokens: list[int]
) -> None:
    reference = logits_of(tokens, {"exl2": exl2_plain(folder)}, {})["exl2"]
    for first in (1, 550):
        ours = np.array(evaluate(shallow, tokens, first).logprobs)
        assert np.abs(ours - expected_logprobs(reference, tokens, first)).max() < FLOAT16


def test_requests_go_on_and_keep_their_cache(shallow: WorkerProcess, tokens: list[int]) -> None:
    forget(shallow)
    alone = answer(shallow, TEXT * 3, max_new_tokens=12, ban_eos_token=True)
    replies: list[Answer] = []
    generating = threading.Thread(
        target=lambda: replies.append(answer(shallow, TEXT * 3, max_new_tokens=12, ban_eos_token=True))
    )
    generating.start()
    results = [evaluate(shallow, tokens[:300], 200) for _ in range(2)]
    generating.join()
    assert results[0] == results[1]
    assert replies[0].text == alone.text
    assert replies[0].done.cached_tokens >= alone.done.prompt_tokens - 1


def test_a_model_does_not_diverge_from_itself_but_from_one_with_a_quantized_cache(
    shallow: WorkerProcess, folder: Path, workers: WorkerPool, tokens: list[int], tmp_path: Path
) -> None:
    kept, window = tmp_path / "kept", tokens[:100]
    evaluate(shallow, window, 40, keep=kept)
    assert max(map(abs, evaluate(shallow, window, 40, against=kept).kl)) < 1e-6
    for loader, start in ((EXLLAMAV2, flash_worker), (EXLLAMAV2_HF, exllamav2_worker)):
        with workers.lease(folder, loader, start, max_seq_len=1024, cache_4bit=True) as pooled:
            assert max(evaluate(pooled.worker, window, 40, against=kept).kl) > 1e-3


def test_exllamav2_hf_gives_the_same_numbers(
    shallow: WorkerProcess, folder: Path, workers: WorkerPool, tokens: list[int]
) -> None:
    theirs = evaluate(shallow, tokens[:200], 100)
    with workers.lease(folder, EXLLAMAV2_HF, exllamav2_worker, max_seq_len=1024) as pooled:
        assert evaluate(pooled.worker, tokens[:200], 100).logprobs == pytest.approx(theirs.logprobs, abs=FLOAT16)
        assert answer(pooled.worker, TEXT, max_new_tokens=1).done.completion_tokens == 1
        assert evaluate(pooled.worker, tokens[:200], 100).logprobs == pytest.approx(theirs.logprobs, abs=FLOAT16)


def test_bad_windows_are_refused(shallow: WorkerProcess) -> None:
    with pytest.raises(PromptTooLong):
        evaluate(shallow, [5] * 1025)
    for bad in ([1, -1], [1, 1 << 20], [1]):
        with pytest.raises(OptionError):
            evaluate(shallow, bad)
