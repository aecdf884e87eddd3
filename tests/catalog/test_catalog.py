"""Listing and lookup of models in a folder."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path

import pytest

from modules.catalog import catalog as catalog_module
from modules.catalog.catalog import Catalog
from modules.catalog.record import ModelRecord
from modules.catalog.record_reader import _HEADER
from modules.core.errors import ModelNotFound
from modules.formats.gguf_header import GgufHeader, read_header
from tests.support.checkpoint_files import CONFIG, checkpoint, only_record, problem_message, put, safetensors
from tests.support.gguf_files import MODEL, U16, As, gguf


def names(folder: Path) -> list[str]:
    return [record.name for record in Catalog(folder).models()]


def test_a_missing_folder_has_no_models(tmp_path: Path) -> None:
    assert names(tmp_path / "missing") == []


def test_the_record_of_a_gguf_file_is_read_from_its_header(tmp_path: Path) -> None:
    content = gguf()
    path = put(tmp_path / "sub" / "tiny.gguf", content)
    assert only_record(tmp_path) == ModelRecord(
        name="sub/tiny.gguf",
        path=path,
        format="gguf",
        size=len(content),
        architecture="llama",
        quantization="Q4_K_M",
        parameters=320,
        layers=2,
        context_length=4096,
        chat_template="{{ messages }}",
        defaults={"n_ctx": 4096, "rope_freq_base": 500000.0},
    )


def test_a_real_model_is_listed(smollm2: Path) -> None:
    record = Catalog(smollm2.parent).find(smollm2.name)
    assert (record.format, record.quantization, record.layers) == ("gguf", "Q4_1", 30)
    assert record.problem is None


def test_numbers_in_names_are_sorted_by_value(tmp_path: Path) -> None:
    for name in ("b-13B.gguf", "b-7B.gguf", "A-2.gguf", "a-10.gguf", "a.gguf", "3.gguf"):
        put(tmp_path / name, gguf())
    assert names(tmp_path) == ["3.gguf", "A-2.gguf", "a-10.gguf", "a.gguf", "b-7B.gguf", "b-13B.gguf"]


def test_other_files_are_not_listed(tmp_path: Path) -> None:
    for name in ("README.md", "config.yaml", "notes.txt", "a.gguf.part", "b.incomplete", "c.gguf.tmp", ".d.gguf"):
        put(tmp_path / name, gguf())
    put(tmp_path / ".cache" / "e.gguf", gguf())
    put(tmp_path / "tokenizer" / "tokenizer_config.json", {})
    put(tmp_path / "tokenizer" / "config.json", CONFIG)
    put(tmp_path / "lora" / "adapter_model.safetensors", safetensors(1))
    put(tmp_path / "lora" / "adapter_config.json", {})
    put(tmp_path / "training" / "adapter_config.json", {})
    put(tmp_path / "training" / "optimizer.bin", b"PK\x03\x04")
    put(tmp_path / "training" / "model.safetensors", safetensors(1))
    put(tmp_path / "data" / "vocab.bin", b"anything")
    (tmp_path / "directory.gguf").mkdir()
    assert names(tmp_path) == []


def test_a_damaged_file_is_listed_with_its_problem(tmp_path: Path) -> None:
    put(tmp_path / "cut.gguf", gguf()[:-300])
    record = only_record(tmp_path)
    assert (record.name, record.format, record.architecture) == ("cut.gguf", "gguf", "")
    assert "truncated" in problem_message(record)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can read every file")
def test_an_unreadable_file_is_listed_until_it_becomes_readable(tmp_path: Path) -> None:
    path = put(tmp_path / "locked.gguf", gguf())
    catalog = Catalog(tmp_path)
    path.chmod(0)
    assert "cannot be read" in problem_message(catalog.models()[0])
    path.chmod(0o600)
    assert catalog.models()[0].problem is None


def split(folder: Path, *numbers: int) -> None:
    for number in numbers:
        metadata = (MODEL if number == 1 else {}) | {"split.no": As(U16, number - 1), "split.count": As(U16, 3)}
        put(folder / f"big-0000{number}-of-00003.gguf", gguf(metadata))


def test_a_split_model_is_one_entry(tmp_path: Path) -> None:
    split(tmp_path, 3, 1, 2)
    record = only_record(tmp_path)
    assert (record.name, record.parameters, record.layers) == ("big-00001-of-00003.gguf", 3 * 320, 2)
    assert record.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert record.problem is None


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    split(tmp_path, 1, 3)
    assert "1 of 3 parts are missing: big-00002-of-00003.gguf" in problem_message(only_record(tmp_path))


def test_a_split_model_is_listed_even_without_its_first_part(tmp_path: Path) -> None:
    split(tmp_path, 2)
    record = only_record(tmp_path)
    assert record.name == "big-00001-of-00003.gguf"
    assert "2 of 3 parts are missing: big-00001-of-00003.gguf, big-00003-of-00003.gguf" in problem_message(record)


def test_a_damaged_later_part_is_a_problem_of_the_model(tmp_path: Path) -> None:
    split(tmp_path, 1, 2, 3)
    put(tmp_path / "big-00003-of-00003.gguf", b"<html>")
    record = only_record(tmp_path)
    assert "big-00003-of-00003.gguf" in problem_message(record) and "web page" in problem_message(record)
    assert record.architecture == "llama"


def test_the_error_for_a_renamed_part_states_the_required_name(tmp_path: Path) -> None:
    put(tmp_path / "renamed.gguf", gguf(MODEL | {"split.count": As(U16, 3)}))
    assert "named like model-00001-of-00003.gguf" in problem_message(only_record(tmp_path))


def test_a_gguf_file_in_a_folder_of_weights_is_a_separate_model(tmp_path: Path) -> None:
    put(checkpoint(tmp_path / "tiny") / "tiny.gguf", gguf())
    assert names(tmp_path) == ["tiny", "tiny/tiny.gguf"]


def test_a_second_scan_reads_only_changed_files(tmp_path: Path) -> None:
    path = put(tmp_path / "tiny.gguf", gguf())
    status = path.stat()
    catalog = Catalog(tmp_path)
    records = catalog.models()
    path.write_bytes(bytes(status.st_size))  # not noticed while size and time are the same
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert catalog.models() == records
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert "zeros" in problem_message(catalog.models()[0])


def test_links_are_followed_without_cycles(tmp_path: Path) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    put(models / "a" / "deep" / "tiny.gguf", gguf())
    put(elsewhere / "far.gguf", gguf())
    (models / "file.gguf").symlink_to(elsewhere / "far.gguf")
    (models / "linked").symlink_to(elsewhere)
    (models / "alias").symlink_to(models / "a")
    (models / "loop").symlink_to(models)
    (models / "a" / "up").symlink_to(models)
    (elsewhere / "back").symlink_to(models)
    (models / "self").symlink_to(models / "self")
    (models / "dangling.gguf").symlink_to(tmp_path / "nothing")
    assert names(models) == ["a/deep/tiny.gguf", "alias/deep/tiny.gguf", "file.gguf", "linked/far.gguf"]


def test_folders_that_all_link_to_each_other_are_walked_in_bounded_time(tmp_path: Path) -> None:
    folders = [tmp_path / "outside" / str(number) for number in range(12)]
    for folder in folders:
        put(folder / "tiny.gguf", gguf())
        for target in folders:
            (folder / f"to-{target.name}").symlink_to(target)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "link").symlink_to(folders[0])
    assert len(names(tmp_path / "models")) == 12


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_is_not_utf8_can_be_shown_and_found(tmp_path: Path) -> None:
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.gguf")), b"<html>")
    record = Catalog(tmp_path).find("caf?.gguf")
    assert problem_message(record).encode()


def test_a_model_is_found_by_its_name_or_a_unique_short_name(tmp_path: Path) -> None:
    put(tmp_path / "a" / "tiny.gguf", gguf())
    checkpoint(tmp_path / "org" / "big")
    catalog = Catalog(tmp_path)
    for name in ("a/tiny.gguf", "a/tiny", "tiny.gguf", "tiny"):
        assert catalog.find(name).name == "a/tiny.gguf"
    assert catalog.find("big").name == "org/big"


def make_models(folder: Path) -> None:
    """Create models of all kinds, including names that are easily misread."""
    for name in ("a b [c] +$.gguf", "模型/深/更深/tiny.gguf", "x.gguf/y.gguf"):
        put(folder / name, gguf())
    split(folder / "set", 2, 3)
    checkpoint(folder / "x.gguf")
    checkpoint(folder / "org" / "模型 (1)")
    put(folder / "bare" / "model.safetensors", safetensors(1))
    put(folder / "loose.safetensors", safetensors(1))
    put(folder / "sd" / "model_index.json", {})
    checkpoint(folder / "sd" / "text_encoder")
    (folder / "linked").symlink_to(folder / "org")
    (folder / "linked.gguf").symlink_to(folder / "a b [c] +$.gguf")


def test_a_full_name_is_found_without_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_models(tmp_path)
    listed = Catalog(tmp_path).models()
    assert len(listed) == 11
    catalog = Catalog(tmp_path)
    monkeypatch.delattr("modules.catalog.catalog.walk_folders")
    for record in listed:
        record_found = catalog.find(record.name)
        assert str(record_found.problem) == str(record.problem)
        assert record_found == dataclasses.replace(record, duplicate_of="", problem=record_found.problem)


def test_a_lookup_by_name_returns_the_duplicates_of_the_last_scan(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        put(tmp_path / name, gguf())
    catalog = Catalog(tmp_path)
    assert catalog.find("b.gguf").duplicate_of == ""
    catalog.models()
    assert catalog.find("b.gguf").duplicate_of == "a.gguf"
    put(tmp_path / "b.gguf", gguf(MODEL | {"general.name": "Another"}))
    assert catalog.find("b.gguf").duplicate_of == ""


def test_only_listed_names_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    make_models(folder)
    put(tmp_path / "outside.gguf", gguf())
    put(folder / ".hidden" / "x.gguf", gguf())
    put(folder / "x.gguf.part", gguf())
    (folder / "org" / "up").symlink_to(folder)
    unlisted_names = (
        "../outside.gguf",
        str(tmp_path / "outside.gguf"),
        ".hidden/x.gguf",
        "x.gguf.part",
        "org/up/loose.safetensors",
    )
    invalid_names = (
        "",
        ".",
        "/",
        "org/",
        "/org",
        "org//模型 (1)",
        "./linked.gguf",
        "sd/text_encoder",
        "x\0",
        "x" * 5000,
        "org/up",
    )
    for name in (
        *unlisted_names,
        *invalid_names,
        "loose.safetensors/x",
        "set/big-00002-of-00003.gguf",
        "set",
        "模型/深",
    ):
        assert Catalog(folder).find_exact(name) is None, name


def test_two_threads_read_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        put(tmp_path / f"{number}.gguf", gguf(MODEL | {"general.name": str(number)}))
    catalog, paths_read, results = Catalog(tmp_path), [], []

    def read_slowly(path: Path) -> GgufHeader:
        paths_read.append(path)
        time.sleep(0.002)
        return read_header(path)

    monkeypatch.setattr("modules.catalog.record_reader._HEADER", dataclasses.replace(_HEADER, read=read_slowly))
    threads = [threading.Thread(target=lambda: results.append(catalog.models())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths_read) == 40
    assert all(records == results[0] for records in results)


def test_a_model_can_be_looked_up_during_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "tiny.gguf", gguf())
    slow_path = put(tmp_path / "slow" / "slow.gguf", gguf())
    reading, may_continue = threading.Event(), threading.Event()

    def read_blocked(path: Path) -> GgufHeader:
        if path == slow_path:
            reading.set()
            may_continue.wait(30)
        return read_header(path)

    monkeypatch.setattr("modules.catalog.record_reader._HEADER", dataclasses.replace(_HEADER, read=read_blocked))
    catalog = Catalog(tmp_path)
    scan = threading.Thread(target=catalog.models)
    scan.start()
    assert reading.wait(30)
    assert catalog.find("tiny.gguf").problem is None
    assert scan.is_alive()
    may_continue.set()
    scan.join()


def test_a_full_name_takes_precedence_over_a_short_name(tmp_path: Path) -> None:
    put(tmp_path / "a" / "tiny.gguf", gguf())
    put(tmp_path / "tiny.gguf", gguf())
    assert Catalog(tmp_path).find("tiny.gguf").name == "tiny.gguf"


def test_the_error_for_an_ambiguous_or_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    put(tmp_path / "a" / "tiny.gguf", gguf())
    put(tmp_path / "b" / "tiny.gguf", gguf())
    with pytest.raises(ModelNotFound) as ambiguous:
        Catalog(tmp_path).find("tiny")
    assert ambiguous.value.nearest == "a/tiny.gguf"
    with pytest.raises(ModelNotFound) as unknown:
        Catalog(tmp_path).find("b/tinny.gguf")
    assert (unknown.value.name, unknown.value.nearest) == ("b/tinny.gguf", "b/tiny.gguf")
    with pytest.raises(ModelNotFound):
        Catalog(tmp_path).find("")


def test_paths_are_accepted_on_the_command_line_only(tmp_path: Path) -> None:
    path = put(tmp_path / "outside" / "x.gguf", gguf())
    folder = checkpoint(tmp_path / "outside" / "tiny")
    put(tmp_path / "models" / "y.gguf", gguf())
    catalog = Catalog(tmp_path / "models")
    for name in (str(path), str(folder), "../outside/x.gguf", str(tmp_path / "models" / "y.gguf")):
        with pytest.raises(ModelNotFound):
            catalog.find(name)
    assert catalog.find(str(path), paths=True).path == path
    assert catalog.find(str(path), paths=True).name == "x.gguf"
    assert catalog.find("../outside/x.gguf", paths=True).path == path
    assert catalog.find(f"{folder}/", paths=True).format == "safetensors"


def test_a_path_to_a_listed_model_returns_the_listed_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split(tmp_path / "models" / "sub", 1, 2, 3)
    catalog = Catalog(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    record = catalog.find("models/sub/big-00002-of-00003.gguf", paths=True)
    assert record.name == "sub/big-00001-of-00003.gguf"


def test_a_path_returns_the_model_there_and_not_a_link_to_it(tmp_path: Path) -> None:
    path = put(tmp_path / "models" / "x.gguf", gguf())
    outside = put(tmp_path / "outside" / "y.gguf", gguf())
    (tmp_path / "models" / "a").mkdir()
    (tmp_path / "models" / "a" / "link.gguf").symlink_to(path)
    (tmp_path / "models" / "b.gguf").symlink_to(outside)
    catalog = Catalog(tmp_path / "models")
    assert catalog.find(str(path), paths=True).name == "x.gguf"
    assert catalog.find(str(path.parent / "a" / "link.gguf"), paths=True).name == "a/link.gguf"
    assert catalog.find(str(outside), paths=True).name == "b.gguf"


def test_a_path_without_a_model_is_not_found(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    for name in (str(put(tmp_path / "README.md")), str(tmp_path), str(tmp_path / "no" / "x.gguf"), "x" * 5000):
        with pytest.raises(ModelNotFound):
            catalog.find(name, paths=True)


def test_paths_are_absolute_even_if_the_folder_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "models" / "tiny.gguf", gguf())
    monkeypatch.chdir(tmp_path)
    assert only_record(Path("models")).path == tmp_path / "models" / "tiny.gguf"
    assert only_record(Path("models")).name == "tiny.gguf"


def test_a_name_that_was_not_found_is_remembered_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog(tmp_path)
    assert not catalog.was_absent("new")
    for name in ("new", "x" * 1000):
        with pytest.raises(ModelNotFound):
            catalog.find(name)
    assert catalog.was_absent("new") and not catalog.was_absent("x" * 1000)
    (tmp_path / "new.gguf").write_bytes(gguf())
    assert catalog.find("new").name == "new.gguf"
    monkeypatch.setattr(catalog_module, "ABSENT_SECONDS", 0)
    assert not catalog.was_absent("new")
