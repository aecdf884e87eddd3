"""The scan cache survives restarts, and a damaged cache file is ignored."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from modules.catalog import scan_cache
from modules.catalog.catalog import Catalog
from modules.catalog.record import ModelRecord
from modules.catalog.scan_cache import FileReader, ScanCache
from modules.core.errors import DamagedModel, ModelProblem
from modules.formats.gguf_header import GgufHeader, read_header
from tests.formats.test_quantization import gptq
from tests.support.checkpoint_files import checkpoint, put, tensors
from tests.support.gguf_files import ARRAY, MODEL, As, array, gguf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one model of every kind."""
    folder = tmp_path / "models"
    heads = As(ARRAY, array(4, [8, 4]))
    put(folder / "模型 [1].gguf", gguf(MODEL | {"llama.attention.head_count": heads}))
    put(folder / "cut.gguf", gguf()[:-300])
    put(folder / "mmproj.gguf", gguf(MODEL | {"general.type": "mmproj"}))
    checkpoint(folder / "a", tokenizer_config={"chat_template": "{{ x }}", "added_tokens_decoder": {"0": "x"}})
    checkpoint(folder / "b")
    put(checkpoint(folder / "gptq") / "model.safetensors", tensors(gptq(256, 96, 4, 64)))
    put(folder / "missing" / "model.safetensors.index.json", {"weight_map": {"a": "x.safetensors"}})
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "catalog.json"


def overwrite_files(folder: Path) -> None:
    """Overwrite every file with zeros but keep size and time, so that reading one would be noticed."""
    for path in folder.rglob("*.*"):
        if path.is_file():
            status = path.stat()
            path.write_bytes(bytes(status.st_size))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def comparable(records: list[ModelRecord]) -> list[dict[str, Any]]:
    """Return records in a comparable form: errors do not define equality, and access times differ."""
    return [vars(record) | {"files": list(record.files), "problem": str(record.problem)} for record in records]


def test_after_a_restart_no_file_is_read_and_the_records_are_equal(folder: Path, cache: Path) -> None:
    records_before = comparable(Catalog(folder, cache).models())
    assert {record["duplicate_of"] for record in records_before} == {"", "a"}
    overwrite_files(folder)
    assert comparable(Catalog(folder, cache).models()) == records_before
    assert comparable(Catalog(folder).models()) != records_before


def test_a_lookup_by_name_uses_the_cache(folder: Path, cache: Path) -> None:
    records_before = Catalog(folder, cache).models()
    overwrite_files(folder)
    record = Catalog(folder, cache).find("模型 [1].gguf")
    assert comparable([record]) == comparable([record for record in records_before if "模型" in record.name])


def test_changed_files_are_read_again(folder: Path, cache: Path) -> None:
    Catalog(folder, cache).models()
    put(folder / "cut.gguf", gguf())
    assert Catalog(folder, cache).find("cut.gguf").problem is None


def test_the_cache_file_is_written_only_after_a_change(folder: Path, cache: Path) -> None:
    catalog = Catalog(folder, cache)
    catalog.models()
    cache.unlink()
    catalog.models()
    assert not cache.exists()
    put(folder / "new.gguf", gguf())
    catalog.models()
    stamp = cache.stat().st_mtime_ns
    Catalog(folder, cache).models()
    assert cache.stat().st_mtime_ns == stamp
    assert [path.name for path in cache.parent.iterdir()] == ["catalog.json"]


def test_deleted_files_are_removed_from_the_cache(folder: Path, cache: Path) -> None:
    Catalog(folder, cache).models()
    assert "cut.gguf" in cache.read_text()
    (folder / "cut.gguf").unlink()
    Catalog(folder, cache).models()
    assert "cut.gguf" not in cache.read_text()


def test_results_of_a_lookup_are_kept_by_the_next_scan(folder: Path, cache: Path) -> None:
    catalog = Catalog(folder, cache)
    catalog.find("cut.gguf")
    assert not cache.exists()
    catalog.models()
    assert "cut.gguf" in cache.read_text()


def test_only_needed_values_of_large_json_files_are_cached(folder: Path, cache: Path) -> None:
    Catalog(folder, cache).models()
    assert "added_tokens_decoder" not in cache.read_text() and "weight_map" not in cache.read_text()


def _flip(content: bytes) -> bytes:
    return content.replace(b'"llama"', b'"lmama"', 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-5],
        lambda content: b"\xff\xfe" + content,
        lambda content: b"[" * 100_000 + b"\n{}",
        lambda content: b"{}\n{}",
        lambda content: b"null",
        lambda content: content.partition(b"\n")[0],
        _flip,
    ],
)
def test_a_damaged_cache_is_ignored_and_rewritten(folder: Path, cache: Path, damage: Any) -> None:
    records_before = comparable(Catalog(folder, cache).models())
    valid = cache.read_bytes()
    assert damage(valid) != valid
    cache.write_bytes(damage(valid))
    assert comparable(Catalog(folder, cache).models()) == records_before
    assert cache.read_bytes() == valid


@pytest.mark.parametrize(
    "body", [[], {"header": []}, {"header": {"x": 5}}, "deep"], ids=["a list", "no paths", "no entry", "deep"]
)
def test_a_cache_of_another_structure_is_ignored(folder: Path, cache: Path, body: Any) -> None:
    raw = b"[" * 100_000 if body == "deep" else json.dumps(body).encode()
    put(cache, json.dumps(scan_cache._head(raw)) + "\n" + raw.decode())
    assert comparable(Catalog(folder, cache).models()) == comparable(Catalog(folder).models())


def test_invalid_entries_are_read_again(folder: Path, cache: Path) -> None:
    records_before = comparable(Catalog(folder, cache).models())
    body = json.loads(cache.read_bytes().split(b"\n", 1)[1])
    for name, invalid in {"header": {"version": 3}, "about": 5, "weights": {}}.items():
        for entry in body[name].values():
            entry[2:] = [None, invalid]
    raw = json.dumps(body).encode()
    put(cache, json.dumps(scan_cache._head(raw)) + "\n" + raw.decode())
    assert comparable(Catalog(folder, cache).models()) == records_before


def test_a_cache_of_another_version_is_ignored(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Catalog(folder, cache).models()
    overwrite_files(folder)
    monkeypatch.setattr(scan_cache, "VERSION", scan_cache.VERSION + 1)
    assert all(record.problem for record in Catalog(folder, cache).models())


def test_a_cache_that_cannot_be_written_raises_no_error(folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "file")
    for cache_path in (tmp_path / "file" / "catalog.json", tmp_path):
        assert comparable(Catalog(folder, cache_path).models()) == comparable(Catalog(folder).models())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_is_not_utf8_is_cached_too(tmp_path: Path, cache: Path) -> None:
    path = put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/models/caf\xe9.gguf")), gguf())
    records_before = comparable(Catalog(path.parent, cache).models())
    overwrite_files(path.parent)
    assert comparable(Catalog(path.parent, cache).models()) == records_before


def test_a_file_that_cannot_be_read_is_a_problem_until_it_can(folder: Path, cache: Path) -> None:
    path = folder / "模型 [1].gguf"
    status, content = path.stat(), path.read_bytes()
    header = FileReader("header", read_header, asdict, GgufHeader.from_json)
    results = ScanCache(cache)
    path.unlink()
    problem = results.get(path, status, header)
    assert isinstance(problem, DamagedModel)
    for language, reason in (("en", "cannot be read (No such file or directory)"), ("zh", "无法读取该文件")):
        assert reason in problem.say(language)
    path.write_bytes(content)
    assert not isinstance(results.get(path, status, header), ModelProblem), "the failure is not remembered"
