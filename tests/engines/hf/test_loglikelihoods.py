"""Log-likelihoods of windows by the transformers engine: those of a plain forward pass in float32."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modules.core.errors import OptionError, Unsupported
from modules.core.worker_errors import PromptTooLong
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import TRANSFORMERS, load
from tests.support.answers import answer, ask, forget
from tests.support.hf_logits import logits_of
from tests.support.hf_tiny import KINDS, tiny_models
from tests.support.log_likelihoods import evaluate, expected_logprobs
from tests.support.tiny_model import CONTEXT
from tests.support.worker_pool import WorkerPool

TEXT = "".join(f"{number}. The sun again. The sea again. " for number in range(200))
ROUNDING = 1e-4
LONGER_THAN_A_CHUNK = 1300


@pytest.fixture(scope="module")
def kinds(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_models(tmp_path_factory.mktemp("kinds"), tiny_folder)


@pytest.fixture
def tiny_hf(workers: WorkerPool, tiny_folder: Path) -> Iterator[WorkerProcess]:
    with workers.lease(tiny_folder, TRANSFORMERS) as leased:
        yield leased.worker


@pytest.fixture
def tokens(tiny_hf: WorkerProcess) -> list[int]:
    found: list[int] = ask(tiny_hf, "encode", text=TEXT)
    return found


def test_the_log_likelihoods_of_every_architecture_are_those_of_transformers(
    reloadable: WorkerProcess, kinds: dict[str, Path], subtests: pytest.Subtests
) -> None:
    decoders = {kind: path for kind, path in kinds.items() if kind not in ("t5", "bart")}
    window = list(range(5, 205, 3))
    reference = logits_of(window, decoders, {})
    for kind, path in decoders.items():
        load(reloadable, path, TRANSFORMERS)
        for first in (1, 40):
            with subtests.test(kind=kind, first=first):
                ours = np.array(evaluate(reloadable, window, first).logprobs)
                assert np.abs(ours - expected_logprobs(reference[kind], window, first)).max() < ROUNDING


def test_an_encoder_decoder_model_is_refused(reloadable: WorkerProcess, kinds: dict[str, Path]) -> None:
    assert "t5" in KINDS
    load(reloadable, kinds["t5"], TRANSFORMERS)
    with pytest.raises(Unsupported, match="encoder-decoder"):
        evaluate(reloadable, [5, 6, 7])


def test_a_long_window_in_pieces_has_the_log_likelihoods_of_one_pass(
    tiny_hf: WorkerProcess, tiny_folder: Path, tokens: list[int]
) -> None:
    window = tokens[:LONGER_THAN_A_CHUNK]
    reference = logits_of(window, {"tiny": tiny_folder}, {})["tiny"]
    ours = np.array(evaluate(tiny_hf, window, 100).logprobs)
    assert np.abs(ours - expected_logprobs(reference, window, 100)).max() < ROUNDING


def test_conversations_keep_their_caches_and_answers_their_texts(tiny_hf: WorkerProcess, tokens: list[int]) -> None:
    forget(tiny_hf)
    alone = answer(tiny_hf, TEXT[:400], max_new_tokens=30, ban_eos_token=True)
    results, replies = [], []
    generating = threading.Thread(
        target=lambda: replies.append(answer(tiny_hf, TEXT[:400], max_new_tokens=30, ban_eos_token=True))
    )
    generating.start()
    results = [evaluate(tiny_hf, tokens[begin : begin + 300]) for begin in (0, 0, 50)]
    generating.join()
    assert replies[0].text == alone.text
    assert replies[0].done.cached_tokens == alone.done.prompt_tokens - 1
    assert results[0].logprobs == pytest.approx(results[1].logprobs, abs=ROUNDING)


def test_a_model_does_not_diverge_from_itself_and_diverges_from_another(
    tiny_hf: WorkerProcess, tokens: list[int], tmp_path: Path
) -> None:
    kept, window = tmp_path / "kept", tokens[:60]
    evaluate(tiny_hf, window, 30, keep=kept)
    same = evaluate(tiny_hf, window, 30, against=kept)
    assert max(map(abs, same.kl)) < 1e-6
    assert all(same.same_top)


def test_bad_windows_are_refused(tiny_hf: WorkerProcess) -> None:
    with pytest.raises(PromptTooLong):
        evaluate(tiny_hf, [5] * (CONTEXT + 1))
    for bad in ([1, -1], [1, 1 << 20], [1]):
        with pytest.raises(OptionError):
            evaluate(tiny_hf, bad)
