"""Files are replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.system.atomic_write import replace_file


def test_the_content_is_replaced_and_the_permissions_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    assert replace_file(file, b"one").st_size == 3
    file.chmod(0o640)
    replace_file(file, "二".encode())
    assert file.read_text() == "二" and file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    file = tmp_path / ("长" * 85)  # 255 bytes
    replace_file(file, b"one")
    assert file.read_text() == "one"


def test_a_failure_leaves_the_file_as_it_was_and_no_other_behind(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError):
        replace_file(folder, b"one")
    assert list(tmp_path.iterdir()) == [folder]
