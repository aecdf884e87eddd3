"""The supervisor in a fork of this process: exit statuses, signals, and what is left of a session.

test_child_process.py runs it as the program that it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from modules.system import supervisor
from tests.support.package_index import is_running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")

# Says what it gets; its child, which outlives it, ignores both signals.
WAITING = """
sh -c 'trap "" INT TERM; exec sleep 60' &
trap 'echo interrupted; exit 3' INT
trap 'echo terminated; exit 0' TERM
echo $! ready
while :; do sleep 0.005; done
"""
DEAF = "trap '' INT TERM; echo $$ ready; while :; do sleep 0.005; done"


@dataclass
class Supervisor:
    """A fork that supervises a command in a session of its own."""

    pid: int
    stdin: int
    output: BinaryIO

    def ready(self) -> int:
        """Wait until the command is ready and return the process id that it prints."""
        pid, word = self.output.readline().split()
        assert word == b"ready"
        return int(pid)

    def close_stdin(self) -> None:
        os.close(self.stdin)
        self.stdin = -1

    def status(self) -> int:
        """Wait for the end and return the exit status."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def supervised(arguments: Sequence[str]) -> Iterator[Supervisor]:
    (stdin, stdin_end), (output, output_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(stdin, 0)
            os.dup2(output_end, 1)
            for descriptor in (stdin, stdin_end, output, output_end):
                os.close(descriptor)
            os._exit(supervisor.main(arguments))
        finally:
            os._exit(99)
    os.close(stdin)
    os.close(output_end)
    with open(output, "rb") as file:
        child = Supervisor(pid, stdin_end, file)
        yield child
        if child.stdin >= 0:
            child.close_stdin()


def command(script: str, *server: str) -> list[str]:
    return [*server, "sh", "-c", script]


def test_the_exit_status_is_that_of_the_command_or_names_its_signal(subtests: pytest.Subtests) -> None:
    for script, status in (("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)):
        with subtests.test(script=script), supervised(command(script)) as child:
            assert child.status() == status


def test_a_command_is_interrupted_and_its_descendants_are_killed_when_stdin_ends() -> None:
    with supervised(command(WAITING)) as child:
        descendant = child.ready()
        child.close_stdin()
        assert child.output.read() == b"interrupted\n"
        assert child.status() == 1 and not is_running(descendant)


def test_a_command_that_ignores_the_interrupt_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "EXIT_SECONDS", 0.02)
    with supervised(command(DEAF)) as child:
        pid = child.ready()
        child.close_stdin()
        assert child.status() == 1 and not is_running(pid)


def test_a_server_is_terminated_and_its_folder_deleted_when_stdin_ends(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "socket").touch()
    with supervised(command(WAITING, supervisor.SERVER, "5", str(folder))) as child:
        descendant = child.ready()
        child.close_stdin()
        assert child.output.read() == b"terminated\n"
        assert child.status() == 1 and not is_running(descendant)
    assert not folder.exists()


def test_what_a_server_leaves_behind_is_killed_and_a_folder_in_its_folder_is_kept(tmp_path: Path) -> None:
    """Only a folder that the server does not need to have any folders in is deleted."""
    (tmp_path / "kept").mkdir()
    script = "sleep 60 & echo $! ready; exit 5"
    with supervised(command(script, supervisor.SERVER, "5", str(tmp_path))) as child:
        left = child.ready()
        assert child.status() == 5 and not is_running(left)
    assert (tmp_path / "kept").is_dir()


# A process with the name of a tracker, which says when it has it and ends after so many seconds.
TRACKER = "(exec -a multiprocessing.resource_tracker bash -c 'echo ready; read -t {seconds} -u 3; exit 0') &"


@contextmanager
def session(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script as the leader of a session and wait until it has printed "ready". Its descriptor 3 stays silent."""
    command = ["bash", "-c", f"exec 3<&0; {script}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, start_new_session=True, stdin=pipe, stdout=pipe, bufsize=0) as leader:
        assert leader.stdout is not None and leader.stdout.readline() == b"ready\n"
        yield leader


def test_all_of_a_session_is_killed_but_its_leader_and_trackers_of_shared_memory_end_by_themselves() -> None:
    script = (
        f"sleep 60 & first=$!; {TRACKER.format(seconds=0.1)} second=$!; wait $first; echo $?; wait $second; echo $?"
    )
    with session(script) as leader:
        assert supervisor.session_members(leader.pid)
        supervisor.kill_session(leader.pid)
        assert supervisor.session_members(leader.pid) == []
        assert leader.stdout is not None and leader.stdout.read().split() == [b"137", b"0"]


def test_a_tracker_that_does_not_end_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "KILL_SECONDS", 0.05)
    with session(f"{TRACKER.format(seconds=60)} wait $!; echo $?") as leader:
        supervisor.kill_session(leader.pid)
        assert leader.stdout is not None and leader.stdout.read() == b"137\n"
