"""Kill the server, its worker or both at random moments, and look for what stays: processes and damaged files.

    .venv/bin/python benchmarks/kills.py [--kills 100] [--seed 1] [--model models/SmolLM2-135M-Instruct.Q4_1.gguf]

Each round starts server.py on folders of its own, keeps it busy with answers, questions or loads, and sends SIGKILL
after a random time. Then no process of that server may be left, all files must be whole, and the next round starts on
the same folders. A line of JSON ends the output; the exit status is 0 if all held.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
MARK = "KILLS_ROUND"
"""Variable that all descendants of a server inherit, by which they are found even after their parents have ended."""
END_SECONDS = 5.0


class Server:
    """server.py on `folder`, with a marked environment. Raises RuntimeError if it does not start."""

    def __init__(self, folder: Path, model: str, mark: str, port: int) -> None:
        self.mark, self.url = mark, f"http://127.0.0.1:{port}"
        self.log = folder / "server.log"
        command = [sys.executable, "server.py", "--api", "--nowebui", "--model-dir", str(folder / "models")]
        command += ["--listen-port", str(port), "--settings", str(folder / "settings.yaml")]
        environment = os.environ | {MARK: mark}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.model = model

    def wait(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/healthz")
                return
            time.sleep(0.05)
        raise RuntimeError(f"the server did not start: {self.log.read_text()[-500:]}")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return json.load(answer)

    def post(self, path: str, body: object, timeout: float = 60) -> bytes:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read()

    def load(self) -> None:
        self.post("/v1/internal/model/load", {"model_name": self.model, "args": {"n_ctx": 512, "threads": 1}})

    def workers(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return [child for child in psutil.Process(self.process.pid).children() if "modules.worker" in cmd(child)]
        return []


def cmd(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def marked(mark: str) -> list[psutil.Process]:
    """Return the running processes whose environment has the mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.contextmanager
def busy(server: Server, choice: random.Random) -> Iterator[str]:
    """Keep the server at work in the background; yield at what. Nothing new is asked for after the block."""
    work = choice.choice(["generate", "stream", "chat", "questions", "load", "unload and load"])
    stop = threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            while not stop.is_set():
                if work in ("generate", "stream"):
                    body = {
                        "prompt": "Once upon a time",
                        "max_tokens": 400,
                        "temperature": 1,
                        "stream": work == "stream",
                    }
                    server.post("/v1/completions", body)
                elif work == "chat":
                    message = {"role": "user", "content": "Tell me a story."}
                    server.post("/v1/chat/completions", {"messages": [message], "max_tokens": 400})
                elif work == "questions":
                    server.post("/v1/internal/token-count", {"text": "word " * choice.randrange(1, 200_000)})
                elif work == "load":
                    server.post(
                        "/v1/internal/model/load",
                        {"model_name": server.model, "args": {"n_ctx": choice.randrange(256, 2048)}},
                    )
                else:
                    server.post("/v1/internal/model/unload", {})
                    server.load()

    for _ in range(2):
        threading.Thread(target=run, daemon=True).start()
    yield work
    stop.set()


def damaged_files(folder: Path, model: Path) -> list[str]:
    """Return the files that cannot be read as what they are."""
    bad = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.suffix == ".yaml":
                try:
                    yaml.safe_load(path.read_text())
                except yaml.YAMLError:
                    bad.append(str(path))
            elif path.suffix == ".json":
                try:
                    json.loads(path.read_text())
                except ValueError:
                    bad.append(str(path))
    if not model.is_file() or model.stat().st_size == 0:
        bad.append(str(model))
    return bad


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def one_round(number: int, folder: Path, model: Path, choice: random.Random, port: int) -> dict[str, Any]:
    mark, target = f"{os.getpid()}-{number}", choice.choice(["main", "worker", "both"])
    server = Server(folder, model.name, mark, port)
    outcome: dict[str, Any] = {"round": number, "target": target, "work": "starting", "orphans": 0, "damaged": []}
    try:
        if target == "main" and choice.random() < 0.15:  # while it starts
            time.sleep(choice.uniform(0, 2))
        else:
            server.wait()
            server.load()
            with busy(server, choice) as outcome["work"]:
                time.sleep(choice.uniform(0, 1.5))
        workers = [worker.pid for worker in server.workers()]
        victims = {"main": [server.process.pid], "worker": workers, "both": [server.process.pid, *workers]}[target]
        choice.shuffle(victims)
        for victim in victims:
            kill(victim)
        if target == "worker":  # the server goes on: the next load works
            time.sleep(0.2)
            outcome["served"] = recovers(server)
            kill(server.process.pid)
        server.process.wait(10)
        began = time.monotonic()
        while marked(mark) and time.monotonic() - began < END_SECONDS:
            time.sleep(0.02)
        outcome["seconds"] = round(time.monotonic() - began, 2)
        orphans = marked(mark)
        outcome["orphans"] = [cmd(process)[:80] for process in orphans]
        for process in orphans:
            kill(process.pid)
        outcome["damaged"] = damaged_files(folder, model)
    finally:
        kill(server.process.pid)
        server.process.wait(10)
    return outcome


def recovers(server: Server) -> bool:
    for _ in range(20):
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.load()
            return b"choices" in server.post("/v1/completions", {"prompt": "Hi", "max_tokens": 1})
        time.sleep(0.3)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=7990)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    options = parser.parse_args()
    choice = random.Random(options.seed)
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        (folder / "models").mkdir()
        model = folder / "models" / options.model.name
        shutil.copyfile(options.model, model)
        shutil.copyfile(ROOT / "settings.yaml", folder / "settings.yaml")
        for number in range(options.kills):
            try:
                rounds.append(one_round(number, folder, model, choice, options.port))
            except (RuntimeError, OSError) as error:
                rounds.append({"round": number, "target": "?", "error": str(error)})
            print(json.dumps(rounds[-1]), flush=True)
    summary = {
        "kills": len(rounds),
        "targets": collections.Counter(entry["target"] for entry in rounds),
        "work": collections.Counter(entry.get("work") for entry in rounds),
        "orphans": sum(bool(entry.get("orphans")) for entry in rounds),
        "damaged": sum(bool(entry.get("damaged")) for entry in rounds),
        "not_served": sum(entry.get("served") is False for entry in rounds),
        "errors": sum("error" in entry for entry in rounds),
        "slowest_end": max((entry.get("seconds", 0) for entry in rounds), default=0),
    }
    print(json.dumps(summary))
    return 1 if summary["orphans"] or summary["damaged"] or summary["not_served"] or summary["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
