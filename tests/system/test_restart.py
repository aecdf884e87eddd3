"""Restarts: when they are possible, what they wait for, and that the process is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from modules.core.errors import CannotRestart
from modules.core.paths import ROOT
from modules.system.restart import Restart

PROGRAM = """
import os, pathlib, sys, threading
from modules.system.restart import Restart
print(os.getpid(), sys.argv[1:], flush=True)
restart = Restart()
if restart.is_successor:
    sys.exit(0)
stopped = threading.Event()
restart.offer(pathlib.Path(sys.argv[0]).resolve(), sys.argv[1:], stopped.set)
restart.request()
stopped.wait()
assert restart.requested
restart.replace_process()
"""


def offered(stop: threading.Event, arguments: Sequence[str] = ()) -> Restart:
    restart = Restart()
    restart.offer(Path(sys.argv[0]).resolve(), arguments, stop.set)
    return restart


def test_the_process_is_replaced_by_one_with_the_same_id_and_command_line(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), "--listen-port", "7000", "--x=a b"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=20, check=True)
    first, second = process.stdout.splitlines()
    assert first == second and first.endswith("['--listen-port', '7000', '--x=a b']")


def test_a_restart_waits_until_nothing_is_busy() -> None:
    stop, busy = threading.Event(), threading.Event()
    busy.set()
    restart = offered(stop)
    restart.request(busy.is_set)
    time.sleep(0.05)
    assert not restart.requested
    busy.clear()
    assert stop.wait(2) and restart.requested


def test_a_restart_that_waits_can_be_given_up_and_requested_again() -> None:
    stop, busy = threading.Event(), threading.Event()
    busy.set()
    restart = offered(stop)
    restart.request(busy.is_set)
    restart.cancel()
    busy.clear()
    assert not stop.wait(0.4) and not restart.requested
    restart.request()
    assert stop.wait(2) and restart.requested


def test_a_restart_is_refused_where_it_cannot_work(subtests: pytest.Subtests) -> None:
    stop = threading.Event()
    other = Restart()
    other.offer(Path("/elsewhere/server.py"), [], stop.set)
    for restart, reason in (
        (Restart(), "not started as server.py"),
        (other, "not started as server.py"),
        (offered(stop, ["--model_menu"]), "--model-menu"),
    ):
        with subtests.test(reason=reason):
            assert restart.problem is not None
            with pytest.raises(CannotRestart, match=reason):
                restart.request()
    assert not stop.is_set()


def test_each_process_has_its_own_name() -> None:
    assert Restart().process != Restart().process


def wait_for_waiters() -> None:
    for thread in threading.enumerate():
        if thread.name == "restart":
            thread.join(2)


def test_a_second_request_replaces_the_one_that_waits() -> None:
    stop, busy = threading.Event(), threading.Event()
    busy.set()
    restart = offered(stop)
    assert not restart.waiting
    restart.request(busy.is_set)
    assert restart.waiting
    restart.request()
    assert stop.wait(2) and restart.requested
    stop.clear()
    busy.clear()
    wait_for_waiters()
    assert not stop.is_set(), "the first request has been given up"


def test_a_restart_that_is_given_up_while_the_last_work_ends_does_not_begin() -> None:
    stop, asked = threading.Event(), threading.Event()
    restart = offered(stop)

    def ends_and_is_given_up() -> bool:
        restart.cancel()
        asked.set()
        return False

    restart.request(ends_and_is_given_up)
    assert asked.wait(2) and not restart.waiting
    wait_for_waiters()
    assert not restart.requested and not stop.is_set()
