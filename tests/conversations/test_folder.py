"""Folders on the disk and in memory behave alike."""

from __future__ import annotations

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
