"""The program as the benchmarks see it: a running `server.py`, its API, its processes and their memory."""

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
PATIENCE_SECONDS = 300.0  # on a machine that is busy otherwise, ggml's threads wait for each other for very long
LOOK_SECONDS = 0.005


class Program:
    """`python server.py` with `flags` on a free port; ends with the `with` block. `began` is `time.perf_counter()`.

    `variables` are added to its environment.
    """

    def __init__(self, *flags: str, variables: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with us)
        words = [sys.executable, "server.py", "--listen-port", str(self.port), *flags]
        self.began = time.perf_counter()
        environment = os.environ | (variables or {})
        self._process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=self._output, stderr=self._output)

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, path: str) -> bytes:
        """The body of the first answer 200 to a GET of `path`, as soon as there is one."""
        while time.perf_counter() < self.began + PATIENCE_SECONDS:
            try:
                with urllib.request.urlopen(self.url + path, timeout=PATIENCE_SECONDS) as answer:
                    body: bytes = answer.read()
                    return body
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(LOOK_SECONDS)
        self._output.seek(0)
        sys.exit(f"server.py did not answer {path}:\n{self._output.read().decode(errors='replace')}")

    def post(self, path: str, body: object = None) -> Any:
        """What the API answers, decoded. The program's own words if it refuses."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            sys.exit(f"{path} answered {error.code}: {error.read().decode(errors='replace')}")
        except TimeoutError:
            sys.exit(f"{path} did not answer within {PATIENCE_SECONDS:.0f} s; is the machine busy otherwise?")

    def load(self, name: str) -> float:
        """Load that model, every option left alone. Seconds until it is ready."""
        began = time.perf_counter()
        self.post("/v1/internal/model/load", {"model_name": name})
        return time.perf_counter() - began

    def unload(self) -> None:
        self.post("/v1/internal/model/unload")


def end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does; by force if that does not do within twenty seconds."""
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
    """What `server.py --explain` says of that file: options, their sources, the exact calls of the backend."""
    if not model.is_file():
        sys.exit(f"{model} is not there; ./start.sh fetches the demo model.")
    words = [sys.executable, "server.py", "--model", str(model), "--explain"]
    return json.loads(subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stdout)


# -- memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes: pages in use by each process, summed; and the same with shared pages counted once."""

    resident: int
    proportional: int


def family(pid: int) -> Iterator[int]:
    """`pid` and all its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from family(int(child))


def memory(*pids: int) -> Memory:
    sums = {"Rss": 0, "Pss": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0]) * 1024
    return Memory(sums["Rss"], sums["Pss"])


def mapped_packages(pid: int) -> set[str]:
    """The packages of which that process has native code in its memory."""
    packages = set()
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        _, found, rest = line.partition("/site-packages/")
        if found:
            packages.add(rest.partition("/")[0])
    return packages
