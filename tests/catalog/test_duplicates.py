"""Models with the same weights are recognized as duplicates."""

from __future__ import annotations

import os
from pathlib import Path

from modules.catalog import duplicates
from modules.catalog.catalog import Catalog
from tests.support.checkpoint_files import CONFIG, put, safetensors
from tests.support.gguf_files import MODEL, gguf


def duplicates_in(folder: Path) -> dict[str, str]:
    return {record.name: record.duplicate_of for record in Catalog(folder).models() if record.duplicate_of}


def test_copies_and_links_are_marked_as_duplicates(tmp_path: Path) -> None:
    original = put(tmp_path / "a-2.gguf", gguf())
    put(tmp_path / "a-10.gguf", gguf())
    os.link(original, tmp_path / "b.gguf")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.gguf").symlink_to(original)
    put(tmp_path / "other.gguf", gguf(MODEL | {"general.name": "Tony"}))
    assert duplicates_in(tmp_path) == dict.fromkeys(("a-10.gguf", "b.gguf", "sub/c.gguf"), "a-2.gguf")
    assert all(record.problem is None for record in Catalog(tmp_path).models())


def test_folders_are_duplicates_if_all_their_weights_are(tmp_path: Path) -> None:
    for folder, byte in (("a", 2), ("b", 2), ("c", 3)):
        put(tmp_path / folder / "config.json", CONFIG | {"_name_or_path": folder})
        put(tmp_path / folder / "model-00001-of-00002.safetensors", safetensors(4))
        weights = safetensors(4)[:-8] + bytes([byte] * 8)
        put(tmp_path / folder / "model-00002-of-00002.safetensors", weights)
    assert duplicates_in(tmp_path) == {"b": "a"}


def test_damaged_models_are_not_duplicates(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        put(tmp_path / name, gguf()[:-300])
    assert duplicates_in(tmp_path) == {}


def test_large_files_are_sampled_at_start_middle_and_end(tmp_path: Path) -> None:
    size = 40 << 20
    for name in ("a", "same", "begin", "middle", "end"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    for name, offset in (("begin", 0), ("middle", 7 * (size - (1 << 16)) // 15 + 9), ("end", size - 1)):
        with (tmp_path / name).open("r+b") as file:
            file.seek(offset)
            file.write(b"x")
    samples = {name: duplicates.read_sample(tmp_path / name) for name in ("a", "same", "begin", "middle", "end")}
    assert samples["a"] == samples["same"]
    assert len(set(samples.values())) == 4


def test_no_file_is_read_if_links_or_sizes_suffice(tmp_path: Path) -> None:
    small, large = put(tmp_path / "a", b"one"), put(tmp_path / "b", b"another")
    (tmp_path / "link").symlink_to(small)
    models = [{path: path.stat()} for path in (small, large, tmp_path / "link")]

    def sample(path: Path, status: os.stat_result) -> str:
        raise AssertionError(path)

    assert duplicates.find_duplicates(models, sample) == {2: 0}


def test_only_the_first_file_of_split_models_is_read_if_it_differs(tmp_path: Path) -> None:
    sets = []
    for name in "ab":
        files = [put(tmp_path / name / str(number), f"{name}{number}") for number in range(3)]
        sets.append({path: path.stat() for path in files})
    sampled = []

    def sample(path: Path, status: os.stat_result) -> str:
        sampled.append(path.name)
        return duplicates.read_sample(path)

    assert duplicates.find_duplicates(sets, sample) == {}
    assert sampled == ["0", "0"]


def test_a_file_that_cannot_be_read_is_not_a_duplicate(tmp_path: Path) -> None:
    models = [{path: path.stat()} for path in (put(tmp_path / name, "x") for name in "ab")]
    assert duplicates.find_duplicates(models, lambda path, facts: "") == {}
