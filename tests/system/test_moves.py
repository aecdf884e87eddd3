"""Several files that belong together are moved together, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modules.system.moves import move_all


def test_all_files_are_moved_into_folders_that_need_not_exist(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    move_all([(tmp_path / name, tmp_path / "bin" / name) for name in ("a", "b")])
    assert sorted(os.listdir(tmp_path / "bin")) == ["a", "b"] and os.listdir(tmp_path) == ["bin"]


def test_a_file_that_cannot_be_moved_keeps_the_others_where_they_were(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with pytest.raises(FileNotFoundError):
        move_all([(tmp_path / name, tmp_path / "bin" / name) for name in ("a", "missing")])
    assert (tmp_path / "a").read_text() == "a" and os.listdir(tmp_path / "bin") == []
