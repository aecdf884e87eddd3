"""Vision parts beside GGUF models: which model they belong to, and that they are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.catalog.catalog import Catalog
from tests.support.gguf_files import MODEL, PROJECTOR, gguf


def put(path: Path, metadata: dict[str, Any] = MODEL) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf(metadata))


def chosen(folder: Path) -> dict[str, object]:
    return {record.name: record.defaults.get("mmproj") for record in Catalog(folder).models()}


def test_a_vision_part_is_loaded_with_the_models_beside_it_and_is_none_itself(tmp_path: Path) -> None:
    for name in ("cat-Q4_K_M.gguf", "cat-Q8_0.gguf"):
        put(tmp_path / "cat" / name)
    for name in ("mmproj-cat-f32.gguf", "mmproj-cat-BF16.gguf", "mmproj-cat-F16.gguf"):
        put(tmp_path / "cat" / name, PROJECTOR)
    expected = {f"cat/cat-{kind}.gguf": "mmproj-cat-F16.gguf" for kind in ("Q4_K_M", "Q8_0")}
    assert chosen(tmp_path) == expected
    record = Catalog(tmp_path).find("cat/cat-Q8_0.gguf")
    assert record.defaults["mmproj"] == "mmproj-cat-F16.gguf", "also without a scan"
    assert record.header is not None
    assert (
        record.header.projectors["mmproj-cat-F16.gguf"].size
        == (tmp_path / "cat" / "mmproj-cat-F16.gguf").stat().st_size
    )


def test_of_several_the_one_of_the_same_name_and_size_is_taken(tmp_path: Path, subtests: pytest.Subtests) -> None:
    put(tmp_path / "gemma-3-4b-it-Q4_0.gguf")
    cases = {
        "gemma-3-4b-it-Q4_0-mmproj-f16.gguf": PROJECTOR | {"clip.vision.projection_dim": 9999},
        "mmproj-other-f16.gguf": PROJECTOR,
        "gemma-3-4b-it-mmproj-q8_0.gguf": PROJECTOR,
    }
    for name, metadata in cases.items():
        put(tmp_path / name, metadata)
    assert chosen(tmp_path) == {"gemma-3-4b-it-Q4_0.gguf": "gemma-3-4b-it-mmproj-q8_0.gguf"}


def test_a_model_of_another_name_in_the_folder_of_all_models_gets_none(tmp_path: Path) -> None:
    put(tmp_path / "story.gguf")
    put(tmp_path / "mmproj-gemma-f16.gguf", PROJECTOR)
    assert chosen(tmp_path) == {"story.gguf": None}


def test_an_old_file_that_states_another_size_is_taken(tmp_path: Path) -> None:
    put(tmp_path / "llava" / "llava-v1.5-7b.gguf")
    put(
        tmp_path / "llava" / "mmproj-model-f16.gguf",
        {"general.architecture": "clip", "clip.vision.projection_dim": 768},
    )
    assert chosen(tmp_path) == {"llava/llava-v1.5-7b.gguf": "mmproj-model-f16.gguf"}


def test_a_model_called_mmproj_is_a_model_and_a_vision_part_alone_is_shown_with_the_reason(tmp_path: Path) -> None:
    put(tmp_path / "a" / "mmproj.gguf")
    put(tmp_path / "b" / "mmproj-x.gguf", PROJECTOR)
    records = {record.name: record for record in Catalog(tmp_path).models()}
    assert records["a/mmproj.gguf"].problem is None
    assert "Put it beside that model" in str(records["b/mmproj-x.gguf"].problem)
