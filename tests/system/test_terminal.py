"""Standard streams that are closed, broken, or cannot show Chinese, and the progress line."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from modules.core.paths import ROOT
from modules.system.terminal import ProgressLine, SafeStream, prepare_streams, say

PROGRAM = """
import sys
from modules.system.terminal import prepare_streams, terminal_language
prepare_streams()
opened = open("CMD_FLAGS.txt")
print({"zh": "\\u5df2\\u5c31\\u7eea", "en": "Ready"}[terminal_language()], "\\u6a21\\udc80", flush=True)
print("again", flush=True)
print(opened.fileno() > 2, getattr(sys.stdout, "broken", None), file=sys.stderr)
"""


def run(redirection: str = "", **environment: str) -> tuple[int, str, str]:
    """Run PROGRAM with the streams redirected; return the exit status, the output and the errors."""
    command = ["bash", "-c", f'exec env LC_ALL=zh_CN.UTF-8 "$0" -c "$1" {redirection}', sys.executable, PROGRAM]
    variables = os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=variables | environment, capture_output=True, timeout=30)
    return result.returncode, result.stdout.decode(), result.stderr.decode()


@pytest.mark.parametrize(
    ("encoding", "output"),
    [("utf-8", "已就绪 模\\udc80\nagain\n"), ("ascii", "Ready \\u6a21\\udc80\nagain\n")],
)
def test_english_is_spoken_where_the_terminal_has_no_chinese(encoding: str, output: str) -> None:
    assert run(PYTHONIOENCODING=encoding) == (0, output, "True False\n")


@pytest.mark.parametrize("redirection", ["> /dev/full", "> >(true)", ">&-", "<&- >&-"])
def test_output_that_nobody_takes_is_no_error(redirection: str) -> None:
    status, output, errors = run(redirection)
    assert (status, output) == (0, "")
    assert errors.startswith("True ")


def test_all_streams_may_be_closed() -> None:
    assert run("<&- >&- 2>&-") == (0, "", "")


def test_a_pipe_that_breaks_while_output_is_buffered_is_no_error() -> None:
    reader, writer = os.pipe()
    with SafeStream(open(writer, "wb"), "utf-8") as stream:
        stream.write("buffered")
        os.close(reader)
        stream.flush()
        assert stream.broken
        stream.write("discarded")
        stream.flush()


def test_streams_that_are_no_files_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    output, errors = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    prepare_streams()
    assert (sys.stdout, sys.stderr) == (output, errors)


def test_a_sentence_is_printed_in_both_languages_the_users_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    words = {"en": "Ready", "zh": "已就绪"}
    for variable, printed in (("C", "Ready\n已就绪\n"), ("zh_CN.UTF-8", "已就绪\nReady\n")):
        with subtests.test(variable):
            monkeypatch.setenv("LC_ALL", variable)
            say(words)
            assert capsys.readouterr().out == printed
            say(words, sys.stderr)
            assert capsys.readouterr() == ("", printed)


# -- the progress line -------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def take(self) -> str:
        """Return what has been written since the last call."""
        written = self.getvalue()
        self.seek(0)
        self.truncate()
        return written


def test_a_terminal_shows_one_line_that_is_replaced_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "11")
    terminal = Terminal()
    line = ProgressLine(terminal)
    line.clear()
    assert terminal.take() == "", "nothing is shown yet"
    for text, shown in (("one", "one"), ("0123456789ab", "0123456789"), ("正在编译 llama.cpp", "正在编译 l")):
        line.show(text)
        assert terminal.take() == f"\r\033[K{shown}"
    line.show("正在编译 llama.cpp")
    assert terminal.take() == "", "the text is the same"
    line.clear()
    assert terminal.take() == "\r\033[K"


def test_a_file_gets_a_line_for_each_tenth() -> None:
    file = io.StringIO()
    line = ProgressLine(file)
    for share in (0.0, 0.05, 0.1, 0.19, 0.25, 1.0):
        line.show(f"{share:.0%}", share)
    line.clear()
    assert file.getvalue().split() == ["0%", "10%", "25%", "100%"]
