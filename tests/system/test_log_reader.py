"""The end of the log, by level and text."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.system import log_reader
from modules.system.log_reader import MAX_LINES, read_log

TIME = "2026-11-29 22:05:43,286"
LOG = f"""{TIME} INFO server: started
{TIME} ERROR modules.ui: a handler failed
Traceback (most recent call last):
ValueError: key=secret1
{TIME} DEBUG worker: Layers
{TIME} WARNING worker: slow layers
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "x.log").write_text(LOG)
    return tmp_path / "x.log"


def test_records_are_chosen_by_level_and_text_with_their_tracebacks(log: Path, subtests: pytest.Subtests) -> None:
    lines = LOG.splitlines()
    for level, text, expected in (
        ("DEBUG", "", lines),
        ("WARNING", "", [*lines[1:4], lines[5]]),
        ("ERROR", "", lines[1:4]),
        ("DEBUG", "LAYERS", lines[4:]),
        ("DEBUG", "valueerror", lines[1:4]),
        ("INFO", "no such text", []),
    ):
        with subtests.test(level=level, text=text):
            assert read_log(log, level, text) == expected


def test_only_the_last_lines_are_returned(log: Path) -> None:
    log.write_text("".join(f"{TIME} INFO x: {number}\n" for number in range(MAX_LINES + 30)))
    lines = read_log(log)
    assert len(lines) == MAX_LINES and lines[-1].endswith(f" {MAX_LINES + 29}")


def test_only_the_end_of_a_large_file_is_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "_BYTES_READ", 100)
    assert read_log(log) == LOG.splitlines()[-2:]


def test_the_rest_of_a_record_that_was_cut_off_is_shown(log: Path) -> None:
    log.write_text(f"ValueError: the end of a traceback\n{LOG}")
    assert read_log(log) == ["ValueError: the end of a traceback", *LOG.splitlines()]
    assert read_log(log, "WARNING")[0] == LOG.splitlines()[1], "its level is unknown"


def test_known_secrets_are_left_out_and_cannot_be_searched_for(log: Path) -> None:
    assert "secret1" not in "\n".join(read_log(log, secrets=["secret1"]))
    assert read_log(log, text="secret1", secrets=["secret1"]) == []


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none.log") == []
