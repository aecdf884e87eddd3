"""Progress is printed to stderr, on a terminal in one line, and results as JSON that the terminal can show."""

from __future__ import annotations

import io
import json
import sys

import pytest

from modules.cli.output import ProgressLine, print_json


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show_all(*lines: str) -> list[bool]:
    progress = ProgressLine()
    printed = [progress.show(line) for line in lines]
    progress.end()
    return printed


def test_elsewhere_each_change_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_all("", "1/2", "1/2", "2/2") == [False, True, False, True]
    assert capsys.readouterr() == ("", "1/2\n2/2\n")


def test_on_a_terminal_one_line_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    show_all("1/2", "2/2")
    assert sys.stderr.getvalue() == "\r\x1b[K1/2\r\x1b[K2/2\n"


def test_without_progress_nothing_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    show_all("")
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_fits_the_encoding_of_stdout(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    print_json({"text": "鹅"})
    sys.stdout.flush()
    written = sys.stdout.buffer.getvalue().decode(encoding)
    assert ("鹅" in written) == (encoding == "utf-8") and json.loads(written) == {"text": "鹅"}
