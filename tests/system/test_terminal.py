"""Standard streams that are closed, broken, or cannot show Chinese."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from modules.core.paths import ROOT

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
