"""Vectors and scores by Transformers: layers after the pooling, prompts, and pairs of texts with token types."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.embedding_errors import InputTooLong
from tests.conftest import TRANSFORMERS
from tests.engines.llamacpp.test_embedding import vectors
from tests.support.forked import forked
from tests.support.tiny_bert import HIDDEN, tiny_berts
from tests.support.worker_pool import WorkerPool

TEXTS = ["the cat sat on the mat", "dog", "paris is in france and xyz"]


@pytest.fixture
def folder(backend: None, tmp_path: Path) -> Path:
    """A copy of the model that takes the mean."""
    shutil.copytree(tiny_berts() / "tiny-mean", tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | fields))


def _reference(folder: Path, texts: list[str], dense: Any) -> Any:
    """Return the vectors before the normalization, each text computed alone."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        hidden = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]
        return np.stack([torch.tanh(rows.mean(0) @ torch.tensor(dense).T).numpy() for rows in hidden])


def test_a_layer_after_the_pooling_is_applied(folder: Path, workers: WorkerPool) -> None:
    from safetensors.numpy import save_file

    dense = np.random.default_rng(1).normal(size=(8, HIDDEN)).astype(np.float32)
    (folder / "3_Dense").mkdir()
    save_file({"linear.weight": dense}, folder / "3_Dense" / "model.safetensors")
    (folder / "3_Dense" / "config.json").write_text('{"activation_function": "torch.nn.modules.activation.Tanh"}')
    steps = json.loads((folder / "modules.json").read_text())
    steps.insert(2, {"path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(steps))
    expected = forked(_reference, folder, TEXTS, dense)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    with workers.lease(folder, TRANSFORMERS) as pooled:
        assert pooled.info.dimensions == 8
        ours = vectors(pooled.worker.call("embed", inputs=TEXTS))
    assert ((ours * expected).sum(axis=1) > 0.9999).all()


def test_what_the_files_say_of_inputs_is_followed(folder: Path, workers: WorkerPool) -> None:
    change(folder / "config_sentence_transformers.json", prompts={"query": "the cat "}, default_prompt_name="query")
    change(folder / "sentence_bert_config.json", max_seq_length=16)
    change(folder / "config.json", matryoshka_dimensions=[8, HIDDEN])
    with workers.lease(folder, TRANSFORMERS) as pooled:
        assert (pooled.info.context_length, pooled.info.may_shorten) == (16, True)
        ours = vectors(pooled.worker.call("embed", inputs=["sat"]))
    with workers.lease(tiny_berts() / "tiny-mean", TRANSFORMERS) as pooled:
        assert ours[0] @ vectors(pooled.worker.call("embed", inputs=["the cat sat"]))[0] > 0.9999


def _scores(folder: Path, query: str, documents: list[str]) -> Any:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        pairs = [tokenizer(query, document, return_tensors="pt") for document in documents]
        assert all(pair["token_type_ids"].any() for pair in pairs)
        return [float(torch.sigmoid(model(**pair).logits[0, 0])) for pair in pairs]


def test_a_query_and_a_document_are_told_apart_by_token_types(
    backend: None, tmp_path: Path, workers: WorkerPool
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "rank"
    shutil.copytree(tiny_berts() / "tiny-rank", folder)
    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.token_type_embeddings.weight"][1] *= -1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    expected = forked(_scores, folder, "paris", TEXTS)
    with workers.lease(folder, TRANSFORMERS) as pooled:
        assert np.allclose(pooled.worker.call("rank", query="paris", documents=TEXTS)["scores"], expected, atol=1e-4)


def _write_roberta(folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(5)
    size = {"hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.XLMRobertaConfig(vocab_size=71, max_position_embeddings=34, pad_token_id=1, **size)
    transformers.XLMRobertaModel(config).save_pretrained(folder)


def test_positions_that_follow_the_padding_are_not_all_for_tokens(folder: Path, workers: WorkerPool) -> None:
    forked(_write_roberta, folder)
    change(folder / "tokenizer_config.json", pad_token="[UNK]", unk_token="[PAD]")  # the padding has the number 1
    with workers.lease(folder, TRANSFORMERS) as pooled:
        assert pooled.info.context_length == 32
        assert len(vectors(pooled.worker.call("embed", inputs=["the " * 30, "dog"]))) == 2
        with pytest.raises(InputTooLong):
            pooled.worker.call("embed", inputs=["the " * 31])
