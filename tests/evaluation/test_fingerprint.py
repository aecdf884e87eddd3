"""Fingerprints of files: what changes them, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.evaluation import fingerprint
from modules.evaluation.fingerprint import hash_adapters, hash_files, hash_json
from modules.runtime.load_plan import LoraAdapter


@pytest.fixture(autouse=True)
def _short_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "EDGE_BYTES", 4)


def test_a_file_counts_by_its_size_and_both_ends_whatever_its_name(tmp_path: Path) -> None:
    contents = {
        "a": b"headmiddletail",
        "renamed": b"headmiddletail",
        "end": b"headmiddletaiL",
        "size": b"headmiddle.tail",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    first, renamed, end, size = (hash_files(tmp_path / name) for name in contents)
    assert first == renamed and len({first, end, size}) == 3


def test_a_folder_counts_by_its_visible_files_and_their_names(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = hash_files(tmp_path)
    (tmp_path / ".cache").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    assert hash_files(tmp_path) == first
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert hash_files(tmp_path) != first


def test_loras_count_with_their_weights(tmp_path: Path) -> None:
    (tmp_path / "cat.gguf").write_bytes(b"cat")
    full, half = (hash_adapters([LoraAdapter("cat", tmp_path / "cat.gguf", weight)]) for weight in (1.0, 0.5))
    assert full != half and hash_adapters([]) == ""


def test_the_order_of_keys_does_not_count() -> None:
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1}) != hash_json({"a": 2, "b": 1})
