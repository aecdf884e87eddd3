"""Files kept between runs: made once, whole or not at all, and anew when the code that makes them changes."""

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


def test_a_file_is_made_once(tmp_path: Path) -> None:
    calls: list[Path] = []

    def make(part: Path) -> None:
        calls.append(part)
        part.write_text("whole")

    for _ in range(2):
        assert made_once(tmp_path / "kept" / "file", make).read_text() == "whole"
    assert len(calls) == 1


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def make(part: Path) -> None:
        part.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made_once(tmp_path / "kept" / "file", make)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_faster_process_wins(tmp_path: Path) -> None:
    path = tmp_path / "folder"

    def make(part: Path) -> None:
        part.mkdir()
        path.mkdir()
        (path / "by another").touch()

    assert [file.name for file in made_once(path, make).iterdir()] == ["by another"]


def test_rewording_or_moving_an_import_keeps_the_version(script: Path) -> None:
    before = version([script], "facts")
    script.write_text('from os import path\n"""Other words."""\nSIZE = 3\n')
    assert version([script], "facts") == before


def test_other_code_or_facts_change_the_version(script: Path) -> None:
    before = version([script], "facts")
    assert version([script], "other facts") != before
    script.write_text(SCRIPT.replace("3", "4"))
    assert version([script], "facts") != before
