"""The tokenizer folder of a GGUF file, which is not a model itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.formats.tokenizer_files import tokenizer_folder
from tests.catalog.test_catalog import CONFIG, put
from tests.support.gguf_files import gguf
from tests.support.serving import server_of

FILES = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")


def with_tokenizer(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or FILES:
        (folder / name).touch()
    return folder


def test_files_next_to_the_model_take_precedence_over_a_shared_folder(tmp_path: Path) -> None:
    model, shared = tmp_path / "own" / "model.gguf", tmp_path / "oobabooga_llama-tokenizer"
    model.parent.mkdir()
    assert tokenizer_folder(model) is None
    with_tokenizer(shared)
    assert tokenizer_folder(model) == tokenizer_folder(tmp_path / "model.gguf") == shared
    with_tokenizer(model.parent)
    assert tokenizer_folder(model) == model.parent


@pytest.mark.parametrize("names", [("tokenizer.model",), ("tokenizer_config.json",), ("tokenizer.json",)])
def test_an_incomplete_tokenizer_is_ignored(tmp_path: Path, names: tuple[str, ...]) -> None:
    with_tokenizer(tmp_path, *names)
    with_tokenizer(tmp_path / "llama-tokenizer", *names)
    assert tokenizer_folder(tmp_path / "model.gguf") is None


def test_a_folder_with_another_name_is_not_shared(tmp_path: Path) -> None:
    with_tokenizer(tmp_path / "llama-tokenizer-old")
    assert tokenizer_folder(tmp_path / "model.gguf") is None


def test_a_folder_with_a_tokenizer_alone_is_not_listed_as_a_model(tmp_path: Path, make_app: Callable[..., App]) -> None:
    models = tmp_path / "models"
    put(models / "model.gguf", gguf())
    shared = with_tokenizer(models / "oobabooga_llama-tokenizer", *FILES, "tokenizer.json", "README.md")
    put(shared / "config.json", CONFIG)
    put(shared / "generation_config.json", {})
    app = make_app("--api")
    assert [record.name for record in app.selectable_models()] == ["model.gguf"]
    with server_of(app) as server:
        assert server.http.get("/internal/model/list").json() == {"model_names": ["model.gguf"]}
        response = server.post("/internal/model/load", {"model_name": shared.name})
    assert response.status_code == 404
    assert tokenizer_folder(models / "model.gguf") == shared
