"""The cache of created files: complete files only, created once, and again when the code that creates them changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.made_once import made_once, version

SCRIPT = 'import os\n"""What it makes."""\nSIZE = 3  # bytes\n'


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def test_a_file_is_created_once(tmp_path: Path) -> None:
    calls: list[Path] = []

    def make(part: Path) -> None:
        calls.append(part)
        part.write_text("complete")

    for _ in range(2):
        assert made_once(tmp_path / "kept" / "file", make).read_text() == "complete"
    assert len(calls) == 1


def test_a_failed_creation_leaves_no_file(tmp_path: Path) -> None:
    def make(part: Path) -> None:
        part.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made_once(tmp_path / "kept" / "file", make)
    assert list((tmp_path / "kept").iterdir()) == []


def test_the_file_of_a_faster_process_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "folder"

    def make(part: Path) -> None:
        part.mkdir()
        path.mkdir()
        (path / "of the other process").touch()

    assert [file.name for file in made_once(path, make).iterdir()] == ["of the other process"]


def test_docstrings_comments_and_imports_do_not_change_the_version(script: Path) -> None:
    before = version([script], "facts")
    script.write_text('from os import path\n"""Another docstring."""\nSIZE = 3\n')
    assert version([script], "facts") == before


def test_code_and_facts_change_the_version(script: Path) -> None:
    before = version([script], "facts")
    assert version([script], "other facts") != before
    script.write_text(SCRIPT.replace("3", "4"))
    assert version([script], "facts") != before
