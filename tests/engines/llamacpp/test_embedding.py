"""Vectors and scores by llama.cpp equal those that Transformers computes with the same weights."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.core.embedding_errors import CannotGenerate, ForeignTokens
from modules.core.errors import Unsupported
from modules.formats.embedding import POOLING_LAST
from tests.conftest import LLAMA, TRANSFORMERS
from tests.support.answers import parameters
from tests.support.tiny_bert import CLS, CONTEXT, HIDDEN, SEP, tiny_berts, with_pooling, write_pipeline
from tests.support.tiny_reranker import TEMPLATE, tiny_reranker
from tests.support.worker_pool import WorkerPool

TEXTS = ["the cat sat on the mat", "dog", "paris is in france and xyz", "the house " * 30, ""]
"""The fourth one is nearly as long as the context."""


def vectors(answer: Any) -> NDArray[np.float32]:
    return np.array([np.frombuffer(base64.b64decode(vector), "<f4") for vector in answer["vectors"]])


@pytest.fixture(scope="module")
def berts(backend: None) -> Path:
    return tiny_berts()


@pytest.mark.parametrize("kind", ["mean", "cls"])
def test_vectors_equal_those_of_transformers(berts: Path, workers: WorkerPool, kind: str) -> None:
    with (
        workers.lease(berts / f"tiny-{kind}.gguf", LLAMA) as llama,
        workers.lease(berts / f"tiny-{kind}", TRANSFORMERS) as hf,
    ):
        for pooled in (llama, hf):
            info = pooled.info
            facts = (info.task, info.dimensions, info.context_length, info.may_shorten)
            assert facts == ("embed", HIDDEN, CONTEXT, False)
        answers = [pooled.worker.call("embed", inputs=TEXTS) for pooled in (llama, hf)]
        assert answers[0]["tokens"] == answers[1]["tokens"] == 85
        ours, reference = map(vectors, answers)
        assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
        assert ((ours * reference).sum(axis=1) > 0.9999).all()
        assert ours[0] @ ours[3] < 0.99  # the texts differ
        alone = vectors(llama.worker.call("embed", inputs=TEXTS[:1]))
        assert alone[0] @ ours[0] > 0.9999


def test_scores_equal_those_of_transformers(berts: Path, workers: WorkerPool) -> None:
    with (
        workers.lease(berts / "tiny-rank.gguf", LLAMA) as llama,
        workers.lease(berts / "tiny-rank", TRANSFORMERS) as hf,
    ):
        assert llama.info.task == hf.info.task == "rank"
        answers = [pooled.worker.call("rank", query="paris", documents=TEXTS[:3]) for pooled in (llama, hf)]
        assert answers[0]["tokens"] == answers[1]["tokens"]
        assert np.allclose(answers[0]["scores"], answers[1]["scores"], atol=1e-3)
        assert all(0 < score < 1 for score in answers[0]["scores"]) and len(set(answers[0]["scores"])) == 3


def test_a_decoder_with_a_pooling_type_gives_the_vector_of_the_last_token(
    tiny: Path, tiny_folder: Path, workers: WorkerPool, tmp_path: Path
) -> None:
    file, folder = tmp_path / "decoder.gguf", tmp_path / "decoder"
    file.write_bytes(with_pooling(tiny.read_bytes(), "llama", POOLING_LAST))
    shutil.copytree(tiny_folder, folder)
    write_pipeline(folder, {"pooling_mode_lasttoken": True})
    texts = ["The cat sat on the mat.", "A dog", "word " * 700]  # the last one is computed in two pieces
    with workers.lease(file, LLAMA) as llama, workers.lease(folder, TRANSFORMERS) as hf:
        ours, reference = (vectors(pooled.worker.call("embed", inputs=texts)) for pooled in (llama, hf))
        assert ((ours * reference).sum(axis=1) > 0.999).all()
        assert ours[0] @ ours[1] < 0.99
        tokens = llama.worker.call("encode", text=texts[0])
        assert vectors(llama.worker.call("embed", inputs=[tokens]))[0] @ ours[0] > 0.9999


def test_only_the_tokens_of_its_own_tokenizer_are_taken(berts: Path, workers: WorkerPool) -> None:
    with workers.lease(berts / "tiny-mean.gguf", LLAMA) as pooled:
        own = pooled.worker.call("encode", text="the cat")
        assert (own[0], own[-1]) == (CLS, SEP)
        same = [vectors(pooled.worker.call("embed", inputs=[item]))[0] for item in ("the cat", own)]
        assert same[0] @ same[1] > 0.9999
        with pytest.raises(ForeignTokens):
            pooled.worker.call("embed", inputs=[own[1:-1]])


@pytest.mark.parametrize(("name", "loader"), [("tiny-mean.gguf", LLAMA), ("tiny-mean", TRANSFORMERS)])
def test_an_embedding_model_generates_nothing(berts: Path, workers: WorkerPool, name: str, loader: Any) -> None:
    with workers.lease(berts / name, loader) as pooled:
        with pytest.raises(CannotGenerate):
            list(pooled.worker.events("generate", prompt="the cat", params=parameters()))
        with pytest.raises(Unsupported):
            pooled.worker.call("rank", query="a", documents=["b"])


def test_a_decoder_ranks_by_its_own_template_and_the_chance_of_the_first_label(
    tiny: Path, workers: WorkerPool, tmp_path: Path
) -> None:
    with workers.lease(tiny, LLAMA) as pooled:
        filled = [TEMPLATE.format(query="paris", document=text) for text in TEXTS[:3]]
        prompts = [pooled.worker.call("encode", text=text) for text in filled]
    expected = tiny_reranker(tmp_path / "reranker.gguf", tiny, prompts)
    with workers.lease(tmp_path / "reranker.gguf", LLAMA) as pooled:
        assert pooled.info.task == "rank"
        answer = pooled.worker.call("rank", query="paris", documents=TEXTS[:3])
    assert answer["tokens"] == sum(map(len, prompts))
    assert np.allclose(answer["scores"], expected, atol=1e-3) and np.ptp(expected) > 0.01
