"""Bins of files as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.errors import BinNotEmptied
from modules.system.bin_folder import empty_bin, names_in_bin


def test_a_bin_lists_its_files_and_is_emptied(tmp_path: Path) -> None:
    folder, kept = tmp_path / ".trash", tmp_path / "kept"
    (folder / "20261129").mkdir(parents=True)
    kept.mkdir()
    (kept / "file").write_text("stays")
    (folder / "old.yaml").write_text("")
    (folder / "20261129" / "Ann.yaml").write_text("")
    (folder / "link").symlink_to(kept)
    assert set(names_in_bin(folder)) >= {"old.yaml", "Ann.yaml"}
    empty_bin(folder)
    assert list(folder.iterdir()) == [] and (kept / "file").read_text() == "stays"


def test_a_bin_that_is_missing_or_a_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("")
    (tmp_path / ".trash").symlink_to(tmp_path / "real")
    empty_bin(tmp_path / ".trash")
    empty_bin(tmp_path / "none")
    assert (tmp_path / "real" / "file").exists() and names_in_bin(tmp_path / "none") == []


def test_a_file_that_cannot_be_deleted_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_text("")
    monkeypatch.setattr("modules.system.bin_folder.os.unlink", refuse)
    with pytest.raises(BinNotEmptied, match="Permission denied"):
        empty_bin(tmp_path)
