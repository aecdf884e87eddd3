"""The size of folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modules.system.folder_size import FolderSize, measure


def test_files_are_added_up_below_the_folder_without_links_and_skipped_parts(tmp_path: Path) -> None:
    folder, outside = tmp_path / "models", tmp_path / "outside"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / ".trash").mkdir()
    outside.write_bytes(b"x" * 1000)
    (folder / "one").write_bytes(b"x" * 10)
    (folder / "a" / "b" / "two").write_bytes(b"x" * 5)
    (folder / ".trash" / "three").write_bytes(b"x" * 100)
    os.link(folder / "one", folder / "a" / "same")
    (folder / "link").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    assert measure(folder, 5, [folder / ".trash"]) == FolderSize(15, 2)
    assert measure(folder, 5) == FolderSize(115, 3)


def test_measuring_ends_when_the_time_is_over(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x")
    assert measure(tmp_path, -1) == FolderSize(0, 0, complete=False)


def test_a_missing_folder_is_empty(tmp_path: Path) -> None:
    assert measure(tmp_path / "none", 5) == FolderSize(0, 0)


def test_a_part_that_cannot_be_read_makes_the_size_a_lower_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x" * 7)
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert measure(tmp_path, 5) == FolderSize(7, 1, complete=False)
