"""Files by name: what was deleted, overwritten or renamed can be brought back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from modules.config import named_files
from modules.config.named_files import NamedFiles
from modules.core.errors import GrammarNotFound, NameTaken, OptionError, SettingsError


@pytest.fixture
def files(tmp_path: Path) -> NamedFiles:
    return NamedFiles(tmp_path / "files", ".txt", GrammarNotFound, "file")


def text_of(files: NamedFiles, name: str) -> str:
    return files.existing(name).read_text()


def test_numbers_in_names_are_sorted_by_their_values(files: NamedFiles) -> None:
    for name in ("v10", "V2", "v1", "10", "9", "创意"):
        files.write(name, b"")
    assert files.names() == ["9", "10", "v1", "V2", "v10", "创意"]


def test_what_was_overwritten_comes_back_and_goes_again(files: NamedFiles) -> None:
    files.write("a", b"one")
    files.write("a", b"two")
    files.restore("a", overwritten=True)
    assert text_of(files, "a") == "one"
    files.restore("a", overwritten=True)
    assert text_of(files, "a") == "two"


def test_nothing_comes_back_that_was_never_overwritten(files: NamedFiles) -> None:
    files.write("a", b"one")
    with pytest.raises(GrammarNotFound):
        files.restore("a", overwritten=True)
    files.delete("a")
    with pytest.raises(GrammarNotFound):
        files.restore("a", overwritten=True)
    files.restore("a")
    assert text_of(files, "a") == "one"


def test_a_file_is_renamed_unless_the_new_name_is_taken_or_invalid(files: NamedFiles) -> None:
    files.write("a", b"one")
    files.write("b", b"two")
    with pytest.raises(NameTaken):
        files.rename("a", "b")
    with pytest.raises(NameTaken):
        files.rename("a", "a")
    with pytest.raises(OptionError):
        files.rename("a", "../c")
    with pytest.raises(GrammarNotFound):
        files.rename("c", "d")
    files.rename("a", "c")
    assert (files.names(), text_of(files, "c"), text_of(files, "b")) == (["b", "c"], "one", "two")


def test_a_free_name_differs_from_all_others_in_more_than_case(files: NamedFiles) -> None:
    assert files.free_name("a") == "a"
    for name in ("A", "a (2)"):
        files.write(name, b"")
    assert files.free_name("a") == "a (3)"
    with pytest.raises(OptionError):
        files.free_name("a/b")


def test_a_disk_that_refuses_is_an_error_and_loses_nothing(
    files: NamedFiles, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for content in (b"one", b"two"):
        files.write("a", content)
    files.write("gone", b"three")
    files.delete("gone")
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    for name, action in {
        "write": lambda: files.write("a", b"new"),
        "delete": lambda: files.delete("a"),
        "rename": lambda: files.rename("a", "b"),
        "restore": lambda: files.restore("gone"),
        "restore overwritten": lambda: files.restore("a", overwritten=True),
    }.items():
        with subtests.test(name), pytest.raises(SettingsError, match="Read-only file system"):
            action()
    monkeypatch.undo()
    assert (files.names(), text_of(files, "a")) == (["a"], "two")
    files.restore("a", overwritten=True)
    files.restore("gone")
    assert (text_of(files, "a"), text_of(files, "gone")) == ("one", "three")


def test_both_versions_stay_if_there_is_no_room_to_exchange_them(
    files: NamedFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for content in (b"one", b"two"):
        files.write("a", content)
    monkeypatch.setattr(named_files, "replace_file", refuse)
    with pytest.raises(SettingsError, match="No space left"):
        files.restore("a", overwritten=True)
    monkeypatch.undo()
    assert text_of(files, "a") == "two"
    files.restore("a", overwritten=True)
    assert text_of(files, "a") == "one"
