"""Deleting models into the bin of the folder of models, and restoring them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

import pytest

from modules.catalog.catalog import Catalog
from modules.catalog.deletion import BIN, BinEntry, ModelBin, plan_deletion
from modules.catalog.errors import NotDeletable, NotInBin, NotRestorable
from modules.core.errors import BinNotEmptied
from tests.support.checkpoint_files import checkpoint, put
from tests.support.gguf_files import MODEL, PROJECTOR, gguf


def delete(top: Path, name: str, now: float | None = None) -> BinEntry:
    catalog = Catalog(top)
    deletion = plan_deletion(top, catalog.find(name), catalog.models())
    return ModelBin(top).delete(deletion, {name: {"n_ctx": 512}}, now)


def names(top: Path) -> list[str]:
    return [record.name for record in Catalog(top).models()]


def tree(top: Path) -> list[str]:
    return sorted(path.relative_to(top).as_posix() for path in top.rglob("*"))


def test_a_deleted_file_is_in_the_bin_until_it_is_restored(tmp_path: Path) -> None:
    content = gguf()
    put(tmp_path / "a.gguf", content)
    put(tmp_path / "b.gguf", content)
    entry = delete(tmp_path, "a.gguf")
    assert names(tmp_path) == ["b.gguf"]
    assert [found.id for found in ModelBin(tmp_path).entries()] == [entry.id]
    assert (entry.names, entry.size, entry.settings) == (("a.gguf",), len(content), {"a.gguf": {"n_ctx": 512}})
    assert ModelBin(tmp_path).restore(entry.id) == entry
    assert names(tmp_path) == ["a.gguf", "b.gguf"] and (tmp_path / "a.gguf").read_bytes() == content
    assert ModelBin(tmp_path).entries() == []


def test_all_parts_of_a_split_model_are_deleted(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        put(tmp_path / f"big-{number:05}-of-00003.gguf", gguf())
    put(tmp_path / "small.gguf", gguf())
    entry = delete(tmp_path, "big-00001-of-00003.gguf")
    assert len(entry.paths) == 3 and names(tmp_path) == ["small.gguf"]


def test_a_model_alone_in_its_folder_goes_with_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "author" / "one" / "one.gguf", gguf())
    put(tmp_path / "author" / "one" / "tokenizer.json", {})
    put(tmp_path / "author" / "two" / "two.gguf", gguf())
    before = tree(tmp_path)
    entry = delete(tmp_path, "author/one/one.gguf")
    assert entry.paths == ("author/one",) and not (tmp_path / "author" / "one").exists()
    ModelBin(tmp_path).restore(entry.id)
    assert [path for path in tree(tmp_path) if not path.startswith(BIN)] == before


def test_one_of_two_models_in_a_folder_leaves_the_other(tmp_path: Path) -> None:
    put(tmp_path / "both" / "a.gguf", gguf())
    put(tmp_path / "both" / "b.gguf", gguf())
    assert delete(tmp_path, "both/a.gguf").paths == ("both/a.gguf",)
    assert names(tmp_path) == ["both/b.gguf"]


def test_a_folder_of_weights_goes_as_a_whole_with_the_models_in_it(tmp_path: Path) -> None:
    checkpoint(tmp_path / "llama")
    put(tmp_path / "llama" / "extra.gguf", gguf())
    entry = delete(tmp_path, "llama")
    assert entry.paths == ("llama",) and set(entry.names) == {"llama", "llama/extra.gguf"}
    assert names(tmp_path) == []


def test_a_model_takes_its_vision_parts_along_and_brings_them_back(tmp_path: Path) -> None:
    for name in ("cat-Q4.gguf", "dog-Q4.gguf"):
        put(tmp_path / name, gguf(MODEL))
    parts = {"mmproj-cat-f16.gguf", "mmproj-cat-f32.gguf"}
    for name in (*parts, "mmproj-dog-f16.gguf"):
        put(tmp_path / name, gguf(PROJECTOR))
    before, size = tree(tmp_path), sum((tmp_path / name).stat().st_size for name in parts)
    entry = delete(tmp_path, "cat-Q4.gguf")
    assert set(entry.paths) == {"cat-Q4.gguf", *parts} and entry.size == size + len(gguf(MODEL))
    assert (tmp_path / "mmproj-dog-f16.gguf").exists()
    ModelBin(tmp_path).restore(entry.id)
    assert set(tree(tmp_path)) == {*before, BIN}


def test_a_vision_part_stays_for_the_other_models_that_use_it(tmp_path: Path) -> None:
    for name in ("cat-Q4.gguf", "cat-Q8.gguf"):
        put(tmp_path / "cat" / name, gguf(MODEL))
    put(tmp_path / "cat" / "mmproj-cat-f16.gguf", gguf(PROJECTOR))
    assert delete(tmp_path, "cat/cat-Q4.gguf").paths == ("cat/cat-Q4.gguf",)
    last = delete(tmp_path, "cat/cat-Q8.gguf")
    assert last.paths == ("cat",) and last.size == len(gguf(MODEL)) + len(gguf(PROJECTOR))


def test_a_vision_part_that_is_kept_for_others_stays(tmp_path: Path) -> None:
    for name in ("cat-Q4.gguf", "dog.gguf"):
        put(tmp_path / name, gguf(MODEL))
    put(tmp_path / "mmproj-cat-f16.gguf", gguf(PROJECTOR))
    catalog = Catalog(tmp_path)
    record, models = catalog.find("cat-Q4.gguf"), catalog.models()
    assert len(plan_deletion(tmp_path, record, models).paths) == 2
    assert plan_deletion(tmp_path, record, models, [tmp_path / "mmproj-cat-f16.gguf"]).paths == (record.path,)


def test_a_link_is_moved_and_its_target_stays(tmp_path: Path) -> None:
    target = put(tmp_path / "elsewhere" / "a.gguf", gguf())
    top = tmp_path / "models"
    top.mkdir()
    (top / "a.gguf").symlink_to(target)
    (top / "folder").symlink_to(tmp_path / "elsewhere")
    entry = delete(top, "a.gguf")
    assert target.is_file() and names(top) == ["folder/a.gguf"]
    assert ModelBin(top).empty() == entry.size and target.is_file()


def test_nothing_behind_a_linked_folder_is_deleted(tmp_path: Path) -> None:
    target = put(tmp_path / "elsewhere" / "in" / "a.gguf", gguf())
    top = tmp_path / "models"
    top.mkdir()
    (top / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotDeletable, match="symbolic link"):
        delete(top, "linked/in/a.gguf")
    assert target.is_file() and not (top / BIN).exists()


def test_a_model_outside_the_folder_is_not_deleted(tmp_path: Path) -> None:
    path = put(tmp_path / "other" / "a.gguf", gguf())
    top = tmp_path / "models"
    top.mkdir()
    with pytest.raises(NotDeletable, match="not in the folder of models"):
        plan_deletion(top, Catalog(top).find(str(path), paths=True), [])


def test_a_model_is_not_restored_over_another_one(tmp_path: Path) -> None:
    put(tmp_path / "a.gguf", gguf())
    entry = delete(tmp_path, "a.gguf")
    put(tmp_path / "a.gguf", "new")
    with pytest.raises(NotRestorable, match="exists again"):
        ModelBin(tmp_path).restore(entry.id)
    assert (tmp_path / "a.gguf").read_text() == "new" and len(ModelBin(tmp_path).entries()) == 1


def test_a_failed_move_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        put(tmp_path / f"a-{number:05}-of-00002.gguf", gguf())
    rename = os.rename

    def fail_on_second(source: Path, target: Path) -> None:
        if str(source).endswith("00002-of-00002.gguf"):
            raise OSError(18, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_on_second)
    with pytest.raises(NotDeletable, match="cross-device"):
        delete(tmp_path, "a-00001-of-00002.gguf")
    assert names(tmp_path) == ["a-00001-of-00002.gguf"] and ModelBin(tmp_path).entries() == []


def test_files_that_cannot_be_moved_back_are_in_the_bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [tmp_path / f"a-{number:05}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        put(part, gguf())
    rename = os.rename

    def fail_after_first(source: Path, target: Path) -> None:
        if Path(source) != parts[0]:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    with monkeypatch.context() as disk:
        disk.setattr(os, "rename", fail_after_first)
        with pytest.raises(NotDeletable, match="Input/output"):
            delete(tmp_path, parts[0].name)
    (entry,) = ModelBin(tmp_path).entries()
    ModelBin(tmp_path).restore(entry.id)
    assert all(part.read_bytes() == gguf() for part in parts) and ModelBin(tmp_path).entries() == []


def test_only_what_is_old_enough_is_deleted_for_good(tmp_path: Path) -> None:
    for name in ("old.gguf", "new.gguf"):
        put(tmp_path / name, gguf())
    old, new = delete(tmp_path, "old.gguf", now=1000.0), delete(tmp_path, "new.gguf", now=5000.0)
    bin_ = ModelBin(tmp_path)
    assert bin_.entries() == [new, old]
    assert bin_.empty(older_than=3000.0, now=5000.0) == old.size
    assert bin_.entries() == [new]


def test_what_cannot_be_deleted_for_good_is_not_reported_as_deleted(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        put(tmp_path / name, gguf())
    kept, other = delete(tmp_path, "a.gguf", now=2000.0), delete(tmp_path, "b.gguf", now=1000.0)
    folder = tmp_path / ".trash" / kept.id
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")  # a link is not deleted
    bin_ = ModelBin(tmp_path)
    with pytest.raises(BinNotEmptied):
        bin_.empty()
    assert bin_.entries() == [kept], f"{other.id} was tried too"
    assert (tmp_path / "elsewhere" / "files" / "a.gguf").exists(), "what a link leads to is not touched"


def test_what_cannot_be_deleted_for_good_stays_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "busy" / "a.gguf", gguf())
    entry, bin_ = delete(tmp_path, "busy/a.gguf"), ModelBin(tmp_path)
    remove_folder, list_folder = os.rmdir, os.scandir

    def list_sorted(path: int) -> contextlib.AbstractContextManager[list[os.DirEntry[str]]]:
        with list_folder(path) as found:
            return contextlib.nullcontext(sorted(found, key=lambda listed: listed.name))  # entry.json is the first

    def refuse(path: str, **options: int) -> None:
        if Path(path).name == "busy":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        remove_folder(path, **options)

    with monkeypatch.context() as patched, pytest.raises(BinNotEmptied):
        patched.setattr(os, "rmdir", refuse)
        patched.setattr(os, "scandir", list_sorted)
        bin_.empty()
    assert bin_.entries() == [entry]
    assert bin_.empty() == entry.size and tree(tmp_path) == [BIN]


@pytest.mark.parametrize("entry_id", ["", "../..", "0000000000-zzzzzzzz", "1234567890-abcdef01", "."])
def test_an_unknown_entry_is_not_restored(tmp_path: Path, entry_id: str) -> None:
    with pytest.raises(NotInBin):
        ModelBin(tmp_path).restore(entry_id)


def test_an_entry_that_leads_out_of_the_folder_is_ignored(tmp_path: Path, subtests: pytest.Subtests) -> None:
    put(tmp_path / "a.gguf", gguf())
    entry = delete(tmp_path, "a.gguf")
    file = tmp_path / BIN / entry.id / "entry.json"
    data = json.loads(file.read_text())
    for paths in (["../x"], ["/etc/passwd"], [""], [f"{BIN}/x"]):
        with subtests.test(paths=paths):
            file.write_text(json.dumps({**data, "paths": paths}))
            assert ModelBin(tmp_path).entries() == []
    for text in ("", "[]", "{}", '{"names": 5}'):
        with subtests.test(text=text):
            file.write_text(text)
            assert ModelBin(tmp_path).entries() == []


def test_a_disk_that_fails_in_the_middle_leaves_all_parts_in_the_bin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        put(tmp_path / f"big-{number:05}-of-00003.gguf", gguf())
    entry, rename, calls = delete(tmp_path, "big-00001-of-00003.gguf"), os.rename, list[Path]()
    before = tree(tmp_path)

    def fail_at_the_second(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EROFS, "Read-only file system")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_at_the_second)
    with pytest.raises(NotRestorable, match="Read-only file system"):
        ModelBin(tmp_path).restore(entry.id)
    assert tree(tmp_path) == before
    assert ModelBin(tmp_path).restore(entry.id) == entry and names(tmp_path) == ["big-00001-of-00003.gguf"]
