"""The build of llama.cpp in the background: when it starts, and that it ends with the process that started it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from modules.loaders.overlay import STAMP, Overlay
from modules.setup import early_build
from modules.system import file_lock
from tests.support.echo_plans import wait_until

# As the build does, it leaves the work to a child that ends with stdin.
INTERPRETER = """#!/bin/sh
echo "$*" >"{folder}/call"
exec 3<&0
(cat <&3; echo ended >"{folder}/ended") &
"""


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Overlay:
    """The overlay that is built; it is not installed, and another process has begun to install it."""
    overlay = Overlay("of-test", 1, tmp_path)
    overlay.requirements.write_text("some-package==1.0\n")
    overlay.folder.mkdir(parents=True)
    monkeypatch.setattr(early_build, "prepared_overlay", lambda: overlay)
    return overlay


def test_the_build_is_started_and_its_stdin_lives_as_long_as_this_process(overlay: Overlay, tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(INTERPRETER.format(folder=tmp_path))
    interpreter.chmod(0o755)
    before = set(os.listdir("/proc/self/fd"))
    early_build.start(interpreter)
    assert (tmp_path / "call").read_text() == "-m modules.setup.early_build\n"
    pipes = [int(name) for name in set(os.listdir("/proc/self/fd")) - before if Path(f"/proc/self/fd/{name}").exists()]
    assert len(pipes) == 1 and os.get_inheritable(pipes[0]), "exec keeps the pipe"
    assert not (tmp_path / "ended").exists()
    os.close(pipes[0])
    wait_until((tmp_path / "ended").exists, 3)


def test_nothing_is_started_if_llama_cpp_is_installed(overlay: Overlay, tmp_path: Path) -> None:
    (overlay.folder / STAMP).write_text(overlay.fingerprint)
    early_build.start(tmp_path / "no-such-python")


def test_the_program_leaves_the_build_to_a_child_that_ends_with_stdin(overlay: Overlay) -> None:
    lock = os.open(overlay.folder.parent / ".of-test.lock", os.O_RDWR | os.O_CREAT)
    file_lock.acquire(lock)
    (stdin, stdin_end), (output, output_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(stdin, 0)
            for descriptor in (stdin, stdin_end, output, lock):
                os.close(descriptor)
            sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
            early_build._main()
        finally:
            os._exit(99)
    os.close(output_end)
    assert os.waitpid(pid, 0)[1] == 0
    os.set_blocking(output, False)
    with pytest.raises(BlockingIOError):  # the child waits for the other process
        os.read(output, 1)
    os.close(stdin_end)
    os.set_blocking(output, True)
    assert os.read(output, 1) == b"", "the child has ended"
    for descriptor in (stdin, output, lock):
        os.close(descriptor)
