"""The folder handed to transformers: the model's own, or links under the names that transformers looks for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.engines.hf import model_folder
from modules.engines.hf.model_folder import folder_for_transformers, in_folder
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import TRANSFORMERS, load
from tests.support.checkpoint_files import checkpoint, put, tensors

INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Make folders of links below `tmp_path`; return those that would be deleted with the process."""
    deleted: list[Path] = []
    monkeypatch.setattr(model_folder, "delete_at_end", deleted.append)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield deleted


def model(top: Path, *weights: str) -> Path:
    folder = checkpoint(top / "models" / "tiny", tokenizer_config={})
    (folder / "model.safetensors").unlink()
    for number, name in enumerate(weights):
        put(folder / name, tensors({f"w{number}": (4, 4)}) if name.endswith(".safetensors") else b"PK\x03\x04")
    return folder


def linked_names(folder: Path, top: Path) -> set[str]:
    """Return the names in the folder of links, after checking that the model's folder is as it was."""
    before = set(os.listdir(folder))
    result = folder_for_transformers(folder)
    assert result != folder and result.is_relative_to(top) and result.name == folder.name
    assert set(os.listdir(folder)) == before
    return set(os.listdir(result))


def test_a_usual_folder_is_handed_over_as_it_is(tmp_path: Path, temporary: list[Path]) -> None:
    for folder in (model(tmp_path / "a", "model.safetensors"), model(tmp_path / "b", "pytorch_model.bin")):
        assert folder_for_transformers(folder) == folder
    sharded = model(tmp_path / "c", "model-00001-of-00001.safetensors", "weights/b.safetensors")
    put(sharded / INDEX, {"weight_map": {"w0": "model-00001-of-00001.safetensors", "w1": "weights/b.safetensors"}})
    assert folder_for_transformers(sharded) == sharded
    assert folder_for_transformers(model(tmp_path / "d")) == tmp_path / "d" / "models" / "tiny"
    assert temporary == []


@pytest.mark.parametrize("name", ["merged.safetensors", "model.fp16.safetensors", "pytorch_model.safetensors"])
def test_a_single_file_gets_the_usual_name(tmp_path: Path, temporary: list[Path], name: str) -> None:
    folder = model(tmp_path, name, "consolidated.safetensors")
    assert linked_names(folder, tmp_path) == {
        *("config.json", "tokenizer_config.json", "model.safetensors", "consolidated.safetensors")
    }
    assert [path.name.startswith("webui-model-") for path in temporary] == [True]


def test_parts_without_an_index_get_one(tmp_path: Path) -> None:
    folder = model(tmp_path, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    result = folder_for_transformers(folder)
    weight_map = json.loads((result / INDEX).read_text())["weight_map"]
    assert [(result / weight_map[name]).resolve() for name in ("w0", "w1")] == sorted(folder.glob("*.safetensors"))


def test_pickles_get_an_index_of_their_names(tmp_path: Path) -> None:
    folder = model(tmp_path, "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    result = folder_for_transformers(folder)
    weight_map = json.loads((result / "pytorch_model.bin.index.json").read_text())["weight_map"]
    assert [(result / name).resolve() for name in weight_map.values()] == sorted(folder.glob("*.bin"))


def test_an_index_that_belongs_to_other_files_is_left_out(tmp_path: Path) -> None:
    folder = model(tmp_path, "merged.safetensors")
    put(folder / INDEX, {"weight_map": {"w0": "model-00001-of-00006.safetensors"}})
    assert INDEX not in linked_names(folder, tmp_path)


def test_an_adapter_beside_the_model_it_was_merged_into_is_left_out(tmp_path: Path) -> None:
    folder = model(tmp_path, "model.safetensors", "adapter_model.safetensors")
    put(folder / "adapter_config.json", {"base_model_name_or_path": "user/base"})
    assert linked_names(folder, tmp_path) == {"config.json", "tokenizer_config.json", "model.safetensors"}


def test_folders_are_linked_or_copied_where_links_are_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model(tmp_path, "merged.safetensors")
    put(folder / "parts" / "a.json", {})

    def forbidden(*_: object, **__: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", forbidden)
    result = folder_for_transformers(folder)
    assert (result / "model.safetensors").samefile(folder / "merged.safetensors")
    assert (result / "parts" / "a.json").is_file()


def test_every_call_gets_the_folder() -> None:
    calls = {"A": {"pretrained_model_name_or_path": "/model", "dtype": "float32"}}
    assert in_folder(calls, Path("/links")) == {"A": {"pretrained_model_name_or_path": "/links", "dtype": "float32"}}


def test_weights_of_an_unusual_name_are_loaded(reloadable: WorkerProcess, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_folder, folder)
    (folder / "model.safetensors").rename(folder / "merged.safetensors")
    assert load(reloadable, folder, TRANSFORMERS).context_length > 0
    assert not (folder / "model.safetensors").exists()
