"""Children that end with their parent: by the kernel's signal, by the end of a pipe, and below a supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.core.paths import ROOT
from modules.system import child_process
from tests.support.package_index import is_running

BUSY = """
import ctypes, sys
from modules.system import child_process
child_process.end_with_parent(0)
print("started", flush=True)
{then}
"""
HOLDING_THE_GIL = "ctypes.PyDLL(None).sleep(60)"
SLEEPING = "ctypes.CDLL(None).sleep(60)"

# A build: its compiler has its own process group, like those of ninja, and ignores an interrupt.
BUILD = """
import os, signal, subprocess, sys, time
compiler = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(2, signal.SIG_IGN);"
                             "print('compiling', flush=True); time.sleep(60)"], start_new_session=False,
                            preexec_fn=os.setpgrp, stdout=subprocess.PIPE)
compiler.stdout.readline()
print(os.getpid(), compiler.pid, flush=True)
time.sleep(60)
"""


def start(program: str, starter: Callable[..., subprocess.Popen[str]]) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return starter([sys.executable, "-c", program], cwd=ROOT, start_new_session=True, **pipes)


def ends_within(seconds: float, *pids: int) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(is_running, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PR_SET_PDEATHSIG")
def test_a_child_that_holds_the_gil_in_native_code_ends_with_its_parent() -> None:
    """The parent is a process that starts the child and prints its pid; the pipe stays open, because we hold it too."""
    program = (
        "import subprocess, sys, time; from modules.system import child_process\n"
        f"child = child_process.start([sys.executable, '-c', {BUSY.format(then=HOLDING_THE_GIL)!r}], stdout=-1)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)"
    )
    parent = start(program, subprocess.Popen)
    with parent:
        child = int(parent.stdout.readline())
        parent.kill()
        assert ends_within(2, child)


def test_a_child_whose_main_thread_sleeps_in_native_code_ends_with_its_pipe() -> None:
    with start(BUSY.format(then=SLEEPING), subprocess.Popen) as child:
        child.stdout.readline()
        child.stdin.close()
        assert ends_within(2, child.pid)


def test_a_child_outlives_the_thread_that_asked_for_it() -> None:
    started: list[subprocess.Popen[str]] = []
    thread = threading.Thread(
        target=lambda: started.append(start(BUSY.format(then=SLEEPING), child_process.start)), name="short"
    )
    thread.start()
    thread.join()
    with started[0] as child:
        child.stdout.readline()
        assert not ends_within(0.2, child.pid)
        child.kill()


def test_a_fork_can_start_children_too() -> None:
    child_process.start(["true"]).wait()
    pid = os.fork()
    if pid == 0:
        os._exit(child_process.start(["true"]).wait(5))
    assert os.waitpid(pid, 0)[1] == 0


def test_a_process_ends_with_the_children_of_its_group_only_if_it_leads_one() -> None:
    reader, writer = os.pipe()
    for leads in (False, True):
        pid = os.fork()
        if pid == 0:
            if leads:
                os.setpgrp()
            os.write(writer, b"%d\n" % subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL).pid)
            child_process.end()
        assert os.waitpid(pid, 0)[1] == (signal.SIGKILL if leads else 0)
        child = int(os.read(reader, 100))
        assert ends_within(2, child) if leads else is_running(child)
        if not leads:
            os.kill(child, signal.SIGKILL)
    os.close(reader)
    os.close(writer)


# -- below a supervisor ------------------------------------------------------------------------------------------------


def supervised(program: str) -> subprocess.Popen[str]:
    return start(program, lambda command, **options: subprocess.Popen(child_process.supervised(command), **options))


def test_a_supervised_command_ends_with_all_its_descendants_when_the_pipe_closes() -> None:
    with supervised(BUILD) as supervisor:
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        supervisor.stdin.close()
        assert ends_within(5, *pids, supervisor.pid)


@pytest.mark.parametrize(("program", "status"), [("", 0), ("exit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_a_supervised_command_keeps_its_exit_status(program: str, status: int) -> None:
    with supervised(program) as supervisor:
        assert supervisor.wait(5) == status


def test_a_supervised_command_can_be_interrupted() -> None:
    """The supervisor ignores SIGINT for itself; the command must not inherit that."""
    with supervised("import os, signal; print(signal.getsignal(signal.SIGINT).__name__)") as supervisor:
        assert supervisor.stdout.readline() == f"{signal.default_int_handler.__name__}\n"


# A server, with a process of its own that outlives it unless it is ended.
SERVER = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, {on_term})
engine = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN);"
                           "print('ready', flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
engine.stdout.readline()
print(os.getpid(), engine.pid, flush=True)
{then}
"""
SAYS_GOODBYE = "lambda *_: (print('goodbye', flush=True), os._exit(0))"


def served(folder: Path, on_term: str, then: str = "time.sleep(60)", seconds: float = 5) -> subprocess.Popen[str]:
    (folder / "socket").touch()

    def starter(command: list[str], **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(child_process.supervised_server(command, seconds, folder), **options)

    return start(SERVER.format(on_term=on_term, then=then), starter)


def test_a_server_is_asked_to_end_before_its_processes_are_killed(tmp_path: Path) -> None:
    with served(tmp_path, SAYS_GOODBYE) as supervisor:
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        supervisor.stdin.close()
        assert supervisor.stdout.readline() == "goodbye\n"
        assert ends_within(2, *pids, supervisor.pid)
    assert not tmp_path.exists()


def test_a_server_that_does_not_end_in_its_time_is_killed_with_its_processes(tmp_path: Path) -> None:
    with served(tmp_path, "signal.SIG_IGN", seconds=0.1) as supervisor:
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        supervisor.stdin.close()
        assert ends_within(2, *pids, supervisor.pid)


def test_a_server_that_ends_by_itself_leaves_nothing_behind(tmp_path: Path) -> None:
    with served(tmp_path, SAYS_GOODBYE, then="os._exit(3)") as supervisor:
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        assert supervisor.wait(5) == 3
        assert ends_within(2, *pids) and not tmp_path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory is a file on Linux only")
def test_shared_memory_of_a_server_that_is_killed_is_deleted(tmp_path: Path) -> None:
    then = (
        "from multiprocessing.shared_memory import SharedMemory; memory = SharedMemory(create=True, size=8)\n"
        "print(memory.name, flush=True); time.sleep(60)"
    )
    with served(tmp_path, "signal.SIG_IGN", then, seconds=0.1) as supervisor:
        supervisor.stdout.readline()
        memory = Path("/dev/shm") / supervisor.stdout.readline().strip()
        assert memory.exists()
        supervisor.stdin.close()
        assert ends_within(3, supervisor.pid)
    remains = memory.exists()
    memory.unlink(missing_ok=True)
    assert not remains
