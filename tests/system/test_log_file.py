"""A log file that cannot be written is reported once, and the program runs on."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest

from modules.system.log_file import LogFile


def test_messages_are_appended_to_a_file_in_a_new_folder(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "log")
    log.handle(logging.makeLogRecord({"msg": "hello 世界", "levelname": "INFO", "name": "n"}))
    assert (tmp_path / "logs" / "log").read_text(encoding="utf-8").endswith("INFO n: hello 世界\n")


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(OSError, match="exists"):
        LogFile(tmp_path / "logs" / "log")


def test_a_full_disk_is_reported_once(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    log = LogFile(Path("/dev/full"))
    for number in range(3):
        log.handle(logging.makeLogRecord({"msg": f"lost {number}"}))
    with contextlib.suppress(OSError):  # what is buffered cannot be flushed
        log.stream.close()
    assert [record.getMessage().split(" (")[1] for record in caplog.records] == [
        "No space left on device); messages appear here only."
    ]
    assert capsys.readouterr().err == ""


def test_a_message_that_cannot_be_formatted_is_reported_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LogFile(tmp_path / "log")
    log.handle(logging.makeLogRecord({"msg": "%d models", "args": ("many",)}))
    log.handle(logging.makeLogRecord({"msg": "the next"}))
    assert "--- Logging error ---" in (errors := capsys.readouterr().err) and "%d models" in errors
    assert (tmp_path / "log").read_text().endswith("the next\n")
