"""The parts of a memory estimate that all engines based on transformers share."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from modules.engines.hf.arguments import DEFAULT_CONTEXT, ModelConfig
from modules.engines.hf.memory_parts import _buffer_tokens, cache_bytes, context_length
from modules.formats.model_shape import model_shape
from tests.engines.hf.test_memory_unquantized import SMALL, options


def test_the_context_length_of_a_shape_equals_that_of_its_config(tmp_path: Path, subtests: pytest.Subtests) -> None:
    config = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 1, "max_position_embeddings": 1000}
    forms: tuple[dict[str, object], ...] = ({}, {"alpha_value": 2.5}, {"compress_pos_emb": 4}, {"compress_pos_emb": 2})
    ropes: dict[str, dict[str, object]] = {
        "gpt2": {},
        "theta": {"rope_theta": 1e4},
        "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    }
    for (name, rope), form in itertools.product(ropes.items(), forms):
        with subtests.test(rope=name, **form):
            full_config = config | {"model_type": "llama" if rope else "gpt2"} | rope
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps(full_config))
            shape = model_shape(full_config, SMALL.sizes, 2000)
            assert shape is not None
            assert context_length(shape, options(**form)) == ModelConfig(folder).context_length(options(**form))
    assert context_length(dataclasses.replace(SMALL, context_length=0), options()) == DEFAULT_CONTEXT


def test_the_kv_cache_grows_by_a_quarter_and_at_least_by_256_tokens() -> None:
    assert [_buffer_tokens(tokens, 512) for tokens in (100, 512, 768, 1024, 2046, 8192)] == [
        356,
        768,
        768,
        1280,
        2557,
        8960,
    ]
    assert cache_bytes(SMALL, 2, 512, 512) == 768 * 2 * (2 * 2 * 2) * 2
    windowed = dataclasses.replace(SMALL, sliding_window_layers=1, sliding_window=100)
    assert cache_bytes(windowed, 2, 512, 4096) == (4096 + 612) * (2 * 2 * 2) * 2
