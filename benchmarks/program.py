"""Run `server.py` for a benchmark: its API, its processes and their memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TIMEOUT_SECONDS = 300.0  # long, because ggml's threads are very slow while other programs use the cores
POLL_SECONDS = 0.005
_NOTHING_SAVED = ("--prompt-cache-gb", "0")  # a prompt of the last run would not be evaluated again


class Program:
    """`python server.py` with `flags` on `port`, by default a free one, stopped at the end of the `with` block.

    `variables` are added to its environment. `began` is the `time.perf_counter()` of its start. `script` may be another
    program that runs the server.
    """

    def __init__(
        self, *flags: str, variables: Mapping[str, str] | None = None, script: str = "server.py", port: int = 0
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object)
        command = [sys.executable, script, "--listen-port", str(self.port), *_NOTHING_SAVED, *flags]
        self.began = time.perf_counter()
        environment = os.environ | (variables or {})
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=self._output, stderr=self._output)

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupt(self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, path: str) -> bytes:
        """GET `path` until it succeeds, and return the body."""
        while time.perf_counter() < self.began + TIMEOUT_SECONDS:
            try:
                with urllib.request.urlopen(self.url + path, timeout=TIMEOUT_SECONDS) as response:
                    body: bytes = response.read()
                    return body
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(POLL_SECONDS)
        self._output.seek(0)
        sys.exit(f"server.py did not answer {path}:\n{self._output.read().decode(errors='replace')}")

    def post(self, path: str, body: object = None) -> Any:
        """POST JSON to the API and return the decoded response; exit with the message of an error response."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            sys.exit(f"{path} answered {error.code}: {error.read().decode(errors='replace')}")
        except TimeoutError:
            sys.exit(f"{path} did not answer within {TIMEOUT_SECONDS:.0f} s. Are other programs using the processors?")

    def load(self, name: str) -> float:
        """Load a model with default options; return the seconds until it is ready."""
        began = time.perf_counter()
        self.post("/v1/internal/model/load", {"model_name": name})
        return time.perf_counter() - began

    def unload(self) -> None:
        self.post("/v1/internal/model/unload")


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Stop a process as Ctrl-C does, or kill it after twenty seconds."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def explain(model: Path) -> Any:
    """Return the output of `server.py --explain` for a file: options, their sources, the exact calls of the backend."""
    if not model.is_file():
        sys.exit(f"{model} does not exist. ./start.sh downloads the demo model.")
    command = [sys.executable, "server.py", "--model", str(model), "--explain"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)


# -- memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Sums over processes in bytes: RSS, and PSS, which counts shared pages once."""

    resident: int
    proportional: int


def process_tree(pid: int) -> Iterator[int]:
    """Yield `pid` and the ids of all its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from process_tree(int(child))


def memory(*pids: int) -> Memory:
    sums = {"Rss": 0, "Pss": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0]) * 1024
    return Memory(sums["Rss"], sums["Pss"])


def mapped_packages(pid: int) -> set[str]:
    """Return the Python packages of which the process has mapped native libraries."""
    packages = set()
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        _, separator, path = line.partition("/site-packages/")
        if separator:
            packages.add(path.partition("/")[0])
    return packages
