"""Which models turn texts into vectors or scores, by their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.formats.embedding import checkpoint_task, gguf_task, may_be_shortened
from modules.formats.gguf_header import read_header
from tests.support.gguf_files import MODEL, gguf

GGUFS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"llama.pooling_type": 0}, ""),
    ({"llama.pooling_type": 1}, "embed"),
    ({"llama.pooling_type": 3}, "embed"),
    ({"llama.pooling_type": 4}, "rank"),
    ({"llama.attention.causal": False}, "embed"),
    ({"general.architecture": "nomic-bert"}, "embed"),
    ({"general.architecture": "bert", "bert.pooling_type": 4}, "rank"),
]

CHECKPOINTS: list[tuple[dict[str, Any], set[str], str]] = [
    ({"architectures": ["Qwen3ForCausalLM"]}, set(), ""),
    ({"architectures": ["Qwen3ForCausalLM"]}, {"modules.json"}, "embed"),
    ({"architectures": ["T5EncoderModel"], "is_encoder_decoder": True}, {"modules.json"}, ""),
    ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}, set(), "rank"),
    ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}}, set(), ""),
    ({"architectures": ["BertForSequenceClassification"]}, {"modules.json"}, ""),
    ({"architectures": "BertModel"}, {"modules.json"}, "embed"),
    ({}, set(), ""),
]


def test_the_task_of_a_gguf_file_follows_from_its_pooling_and_architecture(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for metadata, task in GGUFS:
        with subtests.test(metadata=metadata):
            (tmp_path / "x.gguf").write_bytes(gguf(MODEL | metadata))
            assert gguf_task(read_header(tmp_path / "x.gguf")) == task


def test_the_task_of_a_folder_follows_from_its_config_and_files(subtests: pytest.Subtests) -> None:
    for config, files, task in CHECKPOINTS:
        with subtests.test(config=config, files=files):
            assert checkpoint_task(config, files) == task


def test_families_trained_for_it_may_be_shortened() -> None:
    assert may_be_shortened("nomic-embed-text-v1.5.Q8_0.gguf")
    assert may_be_shortened("x.gguf", "Qwen3 Embedding 0.6B")
    assert not may_be_shortened("nomic-embed-text-v1.Q8_0.gguf", "bge-m3")
