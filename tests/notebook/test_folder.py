"""Texts are moved on the disk and in memory alike."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from modules.notebook.folder import DiskNotebooks, MemoryNotebooks, NotebookFolder


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> NotebookFolder:
    return DiskNotebooks(tmp_path) if request.param == "disk" else MemoryNotebooks()


def test_a_text_that_is_moved_replaces_no_other(folder: NotebookFolder) -> None:
    old, new, taken = map(PurePosixPath, ("old.txt", "new.txt", "taken.txt"))
    folder.write(old, b"moved")
    folder.write(taken, b"stays")
    with pytest.raises(FileExistsError):
        folder.move(old, taken)
    folder.move(old, new)
    folder.move(new, new)
    assert (folder.read(new), folder.read(taken)) == (b"moved", b"stays")
    with pytest.raises(FileNotFoundError):
        folder.move(old, new.with_name("other.txt"))
