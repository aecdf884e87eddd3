"""`vllm serve` in a session of its own, whose processes all end with ours. A fake vLLM stands for the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from modules.core.paths import ROOT
from modules.system.supervisor import session_members
from tests.support import fake_vllm
from tests.support.package_index import is_running
from tests.system.test_child_process import ends_within

# A worker: it starts vLLM, and says what it was told and where vLLM's processes are.
WORKER = """
import os, sys
from modules.core.worker_errors import LoadFailed
from modules.engines.vllm.server_process import ServerProcess
from modules.engines.vllm.arguments import SOCKET
stages = []
command = [sys.executable, {fake!r}, "serve", "/models/{model}", *{flags!r}]
server = ServerProcess(command, dict(os.environ), lambda progress: stages.append((progress.stage, progress.done)))
try:
    server.{wait}("vLLM", "{model}")
except LoadFailed as error:
    print("failed:", error.words.replace(chr(10), " | "), flush=True)
    sys.exit(1)
server.end_with()
print(os.path.dirname(server.target.socket), server.session, server.memory() > 0, stages, flush=True)
sys.stdin.readline()
"""
SERVING = ("--uds", "{socket}")


def start(model: str, flags: tuple[str, ...] = SERVING, wait: str = "wait_until_ready") -> subprocess.Popen[str]:
    program = WORKER.format(fake=fake_vllm.__file__, model=model, flags=flags, wait=wait)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, text=True, **pipes)  # type: ignore[call-overload]


def read_facts(worker: subprocess.Popen[str]) -> tuple[Path, list[int], list[str]]:
    """Return the folder of the socket, the ids of all processes of vLLM, and the rest of what the worker says."""
    assert worker.stdout is not None
    folder, session, *rest = worker.stdout.readline().split(maxsplit=3)
    return Path(folder), [int(session), *session_members(int(session))], rest


def test_vllm_is_ready_when_it_answers_and_ends_with_a_worker_that_is_killed() -> None:
    with start("good") as worker:
        folder, pids, (has_memory, stages) = read_facts(worker)
        assert len(pids) == 3 and has_memory == "True"
        assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "s").is_socket()
        assert stages.strip() == "[('weights', 0.0), ('weights', 0.5), ('weights', 1.0), ('kernels', 0.0)]"
        worker.kill()
        assert worker.stderr is not None
        worker.stderr.read()  # by its end, an unload knows that the memory of the GPUs is free
        assert not any(map(is_running, pids[1:])) and not folder.exists()


def test_a_worker_ends_with_its_vllm_and_says_why() -> None:
    with start("short") as worker:
        _, pids, _ = read_facts(worker)
        assert worker.wait(3) == 3 and ends_within(1, *pids)
        assert worker.stderr is not None
        assert worker.stderr.read().endswith("vLLM has ended: RuntimeError: the engine is gone\n")


def test_vllm_does_not_outlive_a_supervisor_that_is_killed() -> None:
    with start("good") as worker:
        _, pids, _ = read_facts(worker)
        os.kill(pids[0], signal.SIGKILL)
        assert worker.wait(3) and ends_within(1, *pids[1:])


def test_a_load_that_fails_says_what_the_first_process_said() -> None:
    with start("broken") as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "failed: ValueError: No available memory for the cache blocks.\n"


def test_a_machine_that_only_computes_is_ready_without_a_server() -> None:
    with start("good", ("--headless",), "wait_until_computing") as worker:
        folder, pids, _ = read_facts(worker)
        assert len(pids) == 3 and not (folder / "s").exists()
        worker.kill()
        assert ends_within(3, *pids)
