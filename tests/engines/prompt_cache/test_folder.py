"""The folder of saved prompts: its limits, and what is deleted with a model."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path

import pytest

from modules.core.errors import BinNotEmptied
from modules.engines.prompt_cache import folder
from modules.engines.prompt_cache.folder import PromptFolder, content_key, model_key
from tests.engines.prompt_cache.prompts import KEY, open_store, prompt, save


def lengths(path: Path) -> list[int]:
    """Return how many tokens the saved prompts have, those used last first."""
    return [header.tokens for _, header in PromptFolder(path, 1).headers()]


def test_the_prompts_used_longest_ago_go_first(tmp_path: Path) -> None:
    size = 16 * 300 + 2000
    saved = open_store(tmp_path, max_bytes=3 * size)
    for number, rank in ((0, 40), (1, 30), (2, 20)):
        save(saved, prompt(300 + number, number), rank)
    assert lengths(tmp_path) == [302, 301, 300]
    found = saved.find(prompt(300), 0)
    assert found is not None
    with saved.reading(found) as reader:
        reader.read_into(memoryview(bytearray(found.header.size)))
    assert lengths(tmp_path) == [300, 302, 301], "reading is a use"
    save(saved, prompt(310, 3))
    assert lengths(tmp_path) == [310, 300, 302]


def test_the_folder_takes_a_tenth_of_the_free_disk_at_most(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert PromptFolder(tmp_path, 5).limit() == 5
    assert PromptFolder(tmp_path, 1 << 60).limit() == pytest.approx(free / 10, rel=0.2)


def test_the_number_of_files_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MAX_FILES", 2)
    saved = open_store(tmp_path)
    for number in range(3):
        save(saved, prompt(300 + number, number), rank=10 - number)
    assert lengths(tmp_path) == [302, 301]


def test_what_is_saved_of_a_model_goes_with_it(tmp_path: Path) -> None:
    model, other = tmp_path / "model.gguf", tmp_path / "other.gguf"
    for path in (model, other):
        save(open_store(tmp_path / "p", key=dataclasses.replace(KEY, model=model_key(path))), prompt(300))
    files = PromptFolder(tmp_path / "p", 0)
    files.delete_model(model, kept_content=KEY.content)
    assert len(files.files()) == 2
    files.delete_model(model)
    assert [file.path.name.startswith(model_key(other)) for file in files.files()] == [True]


def test_clearing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    save(open_store(tmp_path), prompt(300))
    (tmp_path / f"{folder.TEMPORARY}abc").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    PromptFolder(tmp_path, 0).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    PromptFolder(tmp_path / "missing", 0).clear()


def test_a_folder_that_cannot_be_listed_is_not_cleared(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_bytes(b"x")  # root may list every folder
    with pytest.raises(BinNotEmptied, match="Not a directory"):
        PromptFolder(tmp_path / "prompts", 0).clear()


def test_what_a_killed_process_was_writing_is_deleted_later(tmp_path: Path) -> None:
    old, new = tmp_path / f"{folder.TEMPORARY}old", tmp_path / f"{folder.TEMPORARY}new"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 3600,) * 2)
    open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [new.name]


def test_the_key_of_a_model_changes_with_any_of_its_files(tmp_path: Path) -> None:
    first, second = (tmp_path / f"model-0000{number}-of-00002.gguf" for number in (1, 2))
    for path in (first, second, tmp_path / "other-00002-of-00002.gguf"):
        path.write_bytes(b"x" * 100)
    keys = {content_key(first)}
    (tmp_path / "other-00002-of-00002.gguf").write_bytes(b"y")
    assert content_key(first) in keys
    second.write_bytes(b"x" * 101)
    keys.add(content_key(first))
    os.utime(first, (1, 1))
    keys.add(content_key(first))
    assert len(keys) == 3
    before = content_key(tmp_path)
    (tmp_path / "config.json").write_bytes(b"{}")
    assert content_key(tmp_path) != before
    before = content_key(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model-00001-of-00002.safetensors").write_bytes(b"x")
    assert content_key(tmp_path) != before, "an index may name files in folders"
