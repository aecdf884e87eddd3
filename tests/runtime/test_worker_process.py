"""Worker processes: reports of their death, their end together with the parent, and the packages they import."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from modules.core.events import Event, Failed, Result, Text
from modules.core.paths import ROOT
from modules.core.worker_errors import Unloaded, WorkerDied
from modules.runtime import worker_process
from modules.runtime.worker_process import DECIDED_BY_USER, SHORT_WAITING, WorkerProcess, child_environment
from tests.conftest import ECHO, load
from tests.support.package_index import is_running

pytestmark = pytest.mark.usefixtures("new_processes")


def where(worker: WorkerProcess, package: str = "") -> dict[str, object]:
    (event,) = worker.events("where", package=package)
    assert isinstance(event, Result)
    return event.value


def wait_until(condition: object, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.02)
    return bool(condition())  # type: ignore[operator]


# -- death -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "cause", "code", "output"),
    [
        ("abort", "SIGABRT", -signal.SIGABRT, "last words: about to abort"),
        ("segv", "SIGSEGV", -signal.SIGSEGV, "last words: about to read address 0"),
        ("kill", "SIGKILL", -signal.SIGKILL, ""),
        ("exit", "exit status 1", 1, "the reason given to sys.exit"),
    ],
)
@pytest.mark.parametrize("doing", ["loading", "generating"])
def test_a_death_is_reported_with_its_cause_the_activity_and_the_last_output(
    worker: WorkerProcess, word: str, cause: str, code: int, output: str, doing: str
) -> None:
    with pytest.raises(WorkerDied) as died:
        load(worker, Path(word if doing == "loading" else "anything"), ECHO)
        list(worker.events("generate", prompt=f"hello {word}", params={}))
    assert died.value.exit_code == code
    assert output in died.value.words
    assert f"while {doing} ({cause})" in died.value.say("en")
    assert cause in died.value.say("zh")


def test_death_while_idle_is_reported_at_once_and_to_later_calls() -> None:
    deaths: list[WorkerDied] = []
    reported = threading.Event()
    worker = WorkerProcess(ended=lambda death: (deaths.append(death), reported.set()))
    load(worker, Path("anything"), ECHO)
    os.kill(worker.pid, signal.SIGKILL)
    assert reported.wait(5)
    assert deaths == [worker.death]
    assert "while idle (SIGKILL)" in str(deaths[0])
    with pytest.raises(WorkerDied, match="idle"):
        where(worker)


def test_all_running_calls_end_when_the_worker_dies(echo: WorkerProcess) -> None:
    events: list[Event] = []
    for prompt in ("slow first kill", "second", "third"):
        echo.start("generate", events.append, prompt=prompt, params={})
    assert wait_until(lambda: sum(isinstance(event, Failed) for event in events) == 3, 5), events


def test_calls_are_counted_until_they_end(echo: WorkerProcess) -> None:
    assert echo.count_calls("generate") == 0
    answer = echo.events("generate", prompt="hello slow world", params={})
    next(answer)
    assert (echo.count_calls("generate"), echo.count_calls("repeat")) == (1, 0)
    answer.close()
    assert echo.count_calls("generate") == 0


def test_only_the_last_lines_of_the_output_are_kept(worker: WorkerProcess) -> None:
    load(worker, Path("anything"), ECHO)
    with pytest.raises(WorkerDied) as died:
        list(worker.events("generate", prompt="chatter " * 50 + "abort", params={}))
    assert died.value.words.endswith("last words: about to abort")
    assert len(died.value.words.splitlines()) <= 12


def test_a_death_in_the_middle_of_a_line_is_reported(echo: WorkerProcess) -> None:
    """The child is killed while the pipe holds the first half of a long line."""
    blocked, unblock = threading.Event(), threading.Event()
    events: list[Event] = []
    echo.start("generate", lambda _: (blocked.set(), unblock.wait(10)), prompt="hello", params={})
    blocked.wait(5)  # from now on no thread reads the pipe
    echo.start("repeat", events.append, text="long " * 1000, times=1000)
    time.sleep(0.3)
    os.kill(echo.pid, signal.SIGKILL)
    unblock.set()
    assert wait_until(lambda: events, 5), "no event arrived"
    assert isinstance(events[0], Failed)
    assert isinstance(events[0].error, WorkerDied)


def test_answers_arrive_while_a_long_request_waits_for_room_in_the_pipe(echo: WorkerProcess) -> None:
    """The second answer is longer than a pipe: the child takes no more of the request before all of it is read."""
    answers: list[Event] = []
    os.kill(echo.pid, signal.SIGSTOP)
    echo.start("count", answers.append, text="a")
    echo.start("pieces", answers.append, text="1 " * 15_000)
    echo.start("count", answers.append, text="b " * 500_000)
    os.kill(echo.pid, signal.SIGCONT)
    assert wait_until(lambda: len(answers) == 3, 10)


# -- end ---------------------------------------------------------------------------------------------------------------


def environment(worker: WorkerProcess) -> dict[str, str]:
    """Return the environment that a worker was started with."""
    file = Path(f"/proc/{worker.pid}/environ")
    assert wait_until(file.read_bytes, 5), "the file stays empty until the system has started the program"
    return dict(entry.split("=", 1) for entry in file.read_bytes().decode().split("\0") if entry)


def test_gpus_are_numbered_by_bus_position_unless_the_user_sets_another_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with closing(WorkerProcess()) as worker:
        assert environment(worker)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    with closing(WorkerProcess()) as worker:
        assert environment(worker)["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def openmp_variables(**options: Mapping[str, str]) -> dict[str, str]:
    """Return a new worker's environment variables that control where compute threads run and how they wait."""
    with closing(WorkerProcess(**options)) as worker:
        return {name: value for name, value in environment(worker).items() if name in DECIDED_BY_USER}


def test_threads_sleep_while_waiting_unless_they_will_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DECIDED_BY_USER:
        monkeypatch.delenv(name, raising=False)
    assert openmp_variables() == {"OMP_WAIT_POLICY": "passive"}
    assert openmp_variables(waiting={}) == {}


def test_openmp_variables_of_the_user_are_kept_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DECIDED_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    assert openmp_variables() == openmp_variables(waiting={}) == {"GOMP_SPINCOUNT": "77"}
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    assert {name for name in child_environment(None, SHORT_WAITING) if name in DECIDED_BY_USER} == {"OMP_PROC_BIND"}


def test_a_closed_worker_ends_by_itself(echo: WorkerProcess) -> None:
    began = time.monotonic()
    echo.close()
    assert time.monotonic() - began < 1
    assert not is_running(echo.pid)
    assert wait_until(lambda: isinstance(echo.death, Unloaded), 2)


def test_a_worker_closed_during_a_load_ends(worker: WorkerProcess) -> None:
    loading = worker.events("load", engine=ECHO.engine, path="slow", options={})
    next(loading)
    began = time.monotonic()
    worker.close()
    assert time.monotonic() - began < 1
    with pytest.raises(Unloaded):
        list(loading)


def test_closing_kills_a_worker_that_does_not_end(echo: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "GRACE_SECONDS", 0.2)
    os.kill(echo.pid, signal.SIGSTOP)
    echo.close()
    assert not is_running(echo.pid)


def test_closing_kills_a_worker_that_does_not_read_its_requests(
    echo: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "GRACE_SECONDS", 0.2)
    os.kill(echo.pid, signal.SIGSTOP)
    echo.start("count", lambda _: None, text="b " * 500_000)
    closing = threading.Thread(target=echo.close, daemon=True)
    closing.start()
    closing.join(5)
    assert not closing.is_alive()


def test_what_is_to_be_done_at_the_end_is_done_at_once_after_it(echo: WorkerProcess) -> None:
    done = threading.Event()
    echo.call_at_end(done.set)
    assert not done.is_set()
    echo.close()
    assert done.wait(5)
    late: list[int] = []
    echo.call_at_end(lambda: late.append(threading.get_ident()))
    assert late == [threading.get_ident()]


def test_a_worker_can_be_closed_twice(echo: WorkerProcess) -> None:
    echo.close()
    echo.close()
    with pytest.raises(Unloaded):
        where(echo)


def test_an_ended_worker_leaves_no_open_files() -> None:
    def start_and_close() -> None:
        worker = WorkerProcess()
        load(worker, Path("anything"), ECHO)
        worker.close()
        wait_until(lambda: worker.death is not None, 2)

    start_and_close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        start_and_close()
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, 2)


_PARENT = """
import sys, time
from modules.runtime.worker_process import WorkerProcess

worker = WorkerProcess()
{then}
print(worker.pid, flush=True)
time.sleep(60)
"""

_LOAD = f"worker.call('load', engine={ECHO.engine!r}, path='anything', options={{}})"
_DOING = {
    "nothing": "",
    "being idle": _LOAD,
    "loading": f"next(worker.events('load', engine={ECHO.engine!r}, path='slow', options={{}}))",
    "generating": f"{_LOAD}\ng = worker.events('generate', prompt='slow count 10000', params={{}}); next(g)",
    "answering a question": f"{_LOAD}\nworker.start('count', lambda _: None, text='word ' * 4_000_000)",
}


@contextmanager
def parent_of_a_worker(then: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    program = [sys.executable, "-c", _PARENT.format(then=then)]
    parent = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        yield parent, int(parent.stdout.readline())
        parent.kill()


@pytest.mark.parametrize("doing", _DOING)
def test_killing_the_parent_ends_the_worker(doing: str) -> None:
    with parent_of_a_worker(_DOING[doing]) as (parent, pid):
        assert is_running(pid)
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not is_running(pid), 2), f"the worker is still {doing}"


def test_ctrl_c_in_the_terminal_does_not_reach_the_worker(echo: WorkerProcess) -> None:
    assert os.getpgid(echo.pid) != os.getpgid(0)


# -- packages and environment ------------------------------------------------------------------------------------------


def test_packages_of_an_overlay_precede_those_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "__init__.py").touch()
    worker = WorkerProcess(overlay=tmp_path)
    try:
        load(worker, Path("anything"), ECHO)
        assert where(worker, "yaml")["package"] == str(tmp_path / "yaml" / "__init__.py")
        assert str(tmp_path) not in where(worker, "jinja2")["package"], "other packages come from the environment"
    finally:
        worker.close()
    import yaml

    assert str(tmp_path) not in str(yaml.__file__)
    assert str(tmp_path) not in os.environ.get("PYTHONPATH", "")


def test_programs_of_an_overlay_come_first_in_path(tmp_path: Path) -> None:
    """PyTorch compiles kernels with the first `ninja` in PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ninja").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "ninja").chmod(0o755)
    with closing(WorkerProcess(overlay=tmp_path)) as worker:
        path = environment(worker)["PATH"]
    assert shutil.which("ninja", path=path) == str(tmp_path / "bin" / "ninja")
    assert path.endswith(os.environ["PATH"])
    with closing(WorkerProcess()) as worker:
        assert environment(worker)["PATH"] == os.environ["PATH"]


def test_the_pythonpath_of_the_user_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "of_the_user.py").touch()
    worker = WorkerProcess()
    try:
        load(worker, Path("anything"), ECHO)
        assert where(worker, "of_the_user")["package"] == str(tmp_path / "of_the_user.py")
    finally:
        worker.close()


def test_a_worker_starts_in_any_working_directory(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    for name in ("modules/__init__.py", "json.py", "queue.py"):
        (tmp_path / name).write_text("raise ImportError('not this one')")
    program = f"""
import sys
sys.path[0] = {str(ROOT)!r}
from modules.runtime.worker_process import WorkerProcess
worker = WorkerProcess()
print({_LOAD}["context_length"])
worker.close()
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.stdout == "64\n", run.stderr


def test_generation_parameters_reach_the_engine(echo: WorkerProcess) -> None:
    assert next(echo.events("generate", prompt="hello", params={})) == Text("hello ")
