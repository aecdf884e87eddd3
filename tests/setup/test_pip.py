"""pip as a child process: output, failures, and stopping it with all its processes. A script stands in for pip."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from modules.setup.pip import Pip, PipFailed, Stopped
from tests.support.package_index import PackageIndex, is_running

pytestmark = pytest.mark.usefixtures("whole_program")

# A build whose compiler has its own process group, like those of ninja.
BUILDING = """
import os, subprocess, time
compiler = subprocess.Popen(["sleep", "600"], preexec_fn=os.setpgrp)
print(compiler.pid, flush=True)
time.sleep(600)
"""

# Prints its niceness, which is raised just after the start.
NICE = """
import os, sys, time
deadline = time.monotonic() + 10
while not os.nice(0) and time.monotonic() < deadline:
    time.sleep(0.01)
print(os.nice(0), flush=True)
print(*sys.argv[1:4], file=sys.stderr)
"""


def pip_with(folder: Path, script: str, stop: threading.Event | None = None) -> Pip:
    """Return a Pip whose interpreter is a script."""
    interpreter = folder / "python"
    interpreter.write_text(f"#!{sys.executable}\n{script}\n")
    interpreter.chmod(0o755)
    return Pip(str(interpreter), folder, stop, log=folder / "log")


def test_output_is_read_line_by_line_returned_and_logged(tmp_path: Path) -> None:
    lines: list[str] = []
    pip = pip_with(tmp_path, NICE)
    assert pip.run("cache", "dir", read=lines.append, niceness=7) == lines
    assert lines == ["7", "-m pip cache"]
    assert (tmp_path / "log").read_text().splitlines() == lines


def test_a_failure_contains_the_last_lines_of_output(tmp_path: Path) -> None:
    with pytest.raises(PipFailed, match="the last line") as failed:
        pip_with(tmp_path, "print('the last line'); raise SystemExit(3)").run("install")
    assert failed.value.output == "the last line"


def test_stopping_also_ends_compilers_in_other_process_groups(tmp_path: Path) -> None:
    stop, lines = threading.Event(), list[str]()

    def stop_when_it_compiles(line: str) -> None:
        lines.append(line)
        stop.set()

    with pytest.raises(Stopped):
        pip_with(tmp_path, BUILDING, stop).run("wheel", read=stop_when_it_compiles)
    deadline = time.monotonic() + 10
    while is_running(int(lines[0])):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("keeps_bytecode", [True, False])
def test_packages_are_compiled_at_installation_only_if_imports_cannot_keep_bytecode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package_index: PackageIndex, keeps_bytecode: bool
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", not keeps_bytecode)
    package_index.add_wheel("quickly", "1.0")
    Pip(sys.executable).run("install", "--target", str(tmp_path / "target"), "quickly")
    compiled = list((tmp_path / "target").rglob("*.pyc"))
    assert (compiled == []) == keeps_bytecode
