"""pip as a child process: output, failure, and no process that survives a stop. A script stands in for pip."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from modules.setup.pip import Pip, PipFailed, Stopped
from tests.setup.test_overlay_installer import is_running

pytestmark = pytest.mark.usefixtures("whole_program")

# Its compiler is in a process group of its own, as ninja's are.
BUILDING = """
import os, subprocess, time
compiler = subprocess.Popen(["sleep", "600"], preexec_fn=os.setpgrp)
print(compiler.pid, flush=True)
time.sleep(600)
"""

# It is made nicer just after it has been started.
NICE = """
import os, sys, time
until = time.monotonic() + 10
while not os.nice(0) and time.monotonic() < until:
    time.sleep(0.01)
print(os.nice(0), flush=True)
print(*sys.argv[1:4], file=sys.stderr)
"""


def pip_that(folder: Path, does: str, stop: threading.Event | None = None) -> Pip:
    """Return a Pip whose interpreter is a script."""
    script = folder / "python"
    script.write_text(f"#!{sys.executable}\n{does}\n")
    script.chmod(0o755)
    return Pip(str(script), folder, stop, log=folder / "log")


def test_output_is_read_line_by_line_returned_and_logged(tmp_path: Path) -> None:
    read: list[str] = []
    pip = pip_that(tmp_path, NICE)
    assert pip.run("cache", "dir", read=read.append, niceness=7) == read
    assert read == ["7", "-m pip cache"]
    assert (tmp_path / "log").read_text().splitlines() == read


def test_a_failure_contains_the_last_lines_of_output(tmp_path: Path) -> None:
    with pytest.raises(PipFailed, match="the last words") as failed:
        pip_that(tmp_path, "print('the last words'); raise SystemExit(3)").run("install")
    assert failed.value.output == "the last words"


def test_stopping_also_ends_compilers_in_other_process_groups(tmp_path: Path) -> None:
    stop, read = threading.Event(), list[str]()

    def stop_when_it_compiles(line: str) -> None:
        read.append(line)
        stop.set()

    with pytest.raises(Stopped):
        pip_that(tmp_path, BUILDING, stop).run("wheel", read=stop_when_it_compiles)
    until = time.monotonic() + 10
    while is_running(int(read[0])):
        assert time.monotonic() < until
        time.sleep(0.02)
