"""Folders on the disk and in memory behave alike."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from modules.conversations.folder import DiskFolder, Folder, MemoryFolder

FILE = PurePosixPath("instruct/a.json")


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return DiskFolder(tmp_path) if request.param == "disk" else MemoryFolder()


def test_a_restored_file_replaces_no_other(folder: Folder) -> None:
    folder.write(FILE, b"deleted")
    folder.discard(FILE)
    folder.write(FILE, b"another")
    with pytest.raises(FileExistsError):
        folder.restore(FILE)
    assert folder.read(FILE) == b"another" and folder.count_deleted() == 1
    with pytest.raises(FileNotFoundError):
        folder.restore(PurePosixPath("instruct/b.json"))


def test_a_file_whose_backup_another_program_holds_open_stays_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = DiskFolder(tmp_path)
    folder.write(FILE, b"new")
    backup = tmp_path / f"{FILE}.orig"
    backup.write_bytes(b"old")
    rename = os.rename

    def held_open(source: Path, target: Path) -> None:
        if Path(source) == backup:
            raise PermissionError(13, "used by another process")
        rename(source, target)

    monkeypatch.setattr(os, "rename", held_open)
    with pytest.raises(PermissionError):
        folder.discard(FILE)
    assert folder.read(FILE) == b"new" and backup.exists() and folder.count_deleted() == 0
    monkeypatch.undo()
    folder.discard(FILE)
    assert folder.count_deleted() == 1 and not backup.exists()
