"""A clone and one command are enough to run the program, as the README says. With real pip and real packages."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import requests

from modules.core.paths import ROOT

pytestmark = pytest.mark.usefixtures("whole_program")

DEMO = "SmolLM2-135M-Instruct.Q4_1.gguf"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "新 folder"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)  # two gigabytes, which pytest would keep for three runs


@pytest.fixture
def empty_home(tmp_path: Path) -> Mapping[str, str]:
    """The environment of a user with an empty home; pip's cache is shared to avoid compiling twice."""
    command = [sys.executable, "-m", "pip", "cache", "dir"]
    cache = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    home = tmp_path / "home"
    home.mkdir()
    return {**os.environ, "HOME": str(home), "PIP_CACHE_DIR": cache}


def wait_until_loaded(address: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.Timeout):
            if requests.get(f"{address}/healthz", timeout=5).json()["model"] == "ready":
                return
        time.sleep(0.5)
    raise AssertionError(f"no model was loaded within {seconds} s")


def wait_until_up(server: subprocess.Popen[bytes], address: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, f"start.sh ended with status {server.returncode}"
        try:
            if requests.get(f"{address}/healthz", timeout=5).ok:
                return
        except (requests.ConnectionError, requests.Timeout):
            time.sleep(0.2)
    raise AssertionError(f"no response from {address} within {seconds} s")


class RunningClone:
    """Runs start.sh of a clone; leaving the block interrupts it, as Ctrl-C does."""

    def __init__(self, clone: Path, environment: Mapping[str, str], seconds: float) -> None:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.seconds = seconds
        command = [str(clone / "start.sh"), "--listen-port", str(port)]
        self.process = subprocess.Popen(command, env=environment, cwd="/", start_new_session=True)

    def __enter__(self) -> RunningClone:
        with contextlib.ExitStack() as on_failure:
            on_failure.push(self.__exit__)
            wait_until_up(self.process, self.address, self.seconds)
            on_failure.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(60)


@pytest.mark.timeout(30 * 60)  # llama.cpp may have to be compiled
def test_start_sh_sets_up_a_fresh_clone_and_installs_nothing_the_second_time(
    clone: Path, empty_home: Mapping[str, str]
) -> None:
    with RunningClone(clone, empty_home, seconds=10 * 60) as first:
        page = requests.get(first.address, timeout=60)
        assert page.history, "/ redirects to the page of a language"
        assert page.status_code == 200
        # llama.cpp and the demo model are prepared while the page is already open.
        wait_until_loaded(first.address, seconds=15 * 60)
        assert (clone / "models" / DEMO).is_file()
    stamp, log = clone / ".venv/installed-requirements.txt", clone / "logs/setup.log"
    before = (stamp.stat().st_mtime_ns, log.read_text())
    with RunningClone(clone, empty_home, seconds=60):
        assert (stamp.stat().st_mtime_ns, log.read_text()) == before
