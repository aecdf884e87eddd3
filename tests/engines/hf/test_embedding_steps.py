"""The steps after an embedding model, as sentence-transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import Unsupported
from modules.engines.hf.embedding_steps import DenseLayer, EmbeddingSteps


def write(folder: Path, pooling: dict[str, Any], *more: str, **files: Any) -> Path:
    """Write a pipeline of Transformer, Pooling and the steps `more`; `files` are other JSON files by name."""
    steps = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, name in enumerate(("Pooling", *more), 1):
        steps.append({"path": f"{number}_{name}", "type": f"sentence_transformers.models.{name}"})
        (folder / f"{number}_{name}").mkdir()
    put(folder / "modules.json", steps)
    put(folder / "1_Pooling" / "config.json", pooling)
    for name, content in files.items():
        put(folder / f"{name}.json", content)
    return folder


def put(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def test_the_pooling_is_the_one_that_is_set(tmp_path: Path, subtests: pytest.Subtests) -> None:
    cases = {
        "cls": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        "mean": {"pooling_mode_mean_tokens": True},
        "max": {"pooling_mode_max_tokens": True},
        "lasttoken": {"pooling_mode": "lasttoken"},
    }
    for pooling, settings in cases.items():
        with subtests.test(pooling=pooling):
            folder = tmp_path / pooling
            folder.mkdir()
            assert EmbeddingSteps.read(write(folder, settings, "Normalize")).pooling == pooling


def test_steps_that_are_not_known_are_refused_by_name(tmp_path: Path, subtests: pytest.Subtests) -> None:
    cases: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
        ({"pooling_mode_mean_sqrt_len_tokens": True}, (), "pooling_mode_mean_sqrt_len_tokens"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, (), "pooling_mode_m"),
        ({}, (), "Pooling"),
        ({"pooling_mode_mean_tokens": True}, ("LSTM",), "LSTM"),
    ]
    for number, (pooling, more, name) in enumerate(cases):
        with subtests.test(pooling=pooling, more=more):
            folder = tmp_path / str(number)
            folder.mkdir()
            with pytest.raises(Unsupported, match=name):
                EmbeddingSteps.read(write(folder, pooling, *more))


def test_prompts_lengths_and_layers_are_read(tmp_path: Path) -> None:
    settings = {"prompts": {"query": "Q: ", "document": ""}, "default_prompt_name": "query"}
    files = {"config_sentence_transformers": settings, "sentence_bert_config": {"max_seq_length": 128}}
    folder = write(tmp_path, {"pooling_mode_mean_tokens": True}, "Dense", "Normalize", **files)
    put(folder / "2_Dense" / "config.json", {"activation_function": "torch.nn.modules.linear.Identity"})
    steps = EmbeddingSteps.read(folder)
    assert (steps.prompts, steps.default_prompt, steps.longest) == ({"query": "Q: ", "document": ""}, "query", 128)
    assert steps.dense == (DenseLayer(folder / "2_Dense" / "model.safetensors", "Identity"),)


def test_a_path_in_the_steps_does_not_leave_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder, {"pooling_mode_mean_tokens": True})
    put(folder / "modules.json", [{"path": "../../1_Pooling", "type": "x.Pooling"}])
    assert EmbeddingSteps.read(folder).pooling == "mean"
