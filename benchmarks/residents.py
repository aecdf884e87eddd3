"""Interleaved requests for two models of which one fits into memory: all are answered, and memory comes back.

    .venv/bin/python benchmarks/residents.py [--requests 40] [--clients 8] [--model models/…gguf]

Clients ask for either model at random. Afterwards both go to sleep, and the memory of all processes is compared with
that before the first request.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from figures import MB, session, table, verdict
from program import MODEL, Program, memory, process_tree

MAX_DIFFERENCE = 20 * MB
TTL_SECONDS = 2
PATIENCE_SECONDS = 300.0
NAMES = ("left.gguf", "right.gguf")
ROOM = 1.6
"""How many models fit into memory, by their estimate."""
N_CTX = 2048


@contextmanager
def tight_program(model: Path, *names: str, prepare: Callable[[Path], None] = lambda folder: None) -> Iterator[Program]:
    """Run a server whose models, copies of one by these names, fit into memory one at a time.

    `prepare` may put more into the folder of models.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for copy in names:
            (folder / copy).symlink_to(model.resolve())
        settings = "".join(f"{copy}:\n  n_ctx: {N_CTX}\n" for copy in names)
        (folder / "config-user.yaml").write_text(settings)
        (folder / "settings.yaml").touch()
        prepare(folder)
        flags = ("--api", "--nowebui", "--model-dir", name, "--settings", str(folder / "settings.yaml"))
        room = {"TIGHT_BYTES": str(round(ROOM * needed(folder / names[0])))}
        with Program(*flags, variables=room, script="benchmarks/tight_server.py") as program:
            program.wait_for("/healthz")
            yield program


def needed(model: Path) -> int:
    """Return the estimate of the bytes that a model takes."""
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from modules.engines.llamacpp.memory import estimate
    from modules.formats.gguf_header import read_header
    from modules.loaders.load_settings import option_values, resolve
    from modules.loaders.registry import LOADERS

    options = resolve(LOADERS["llama.cpp"], model={}, saved={}, flags={}, form={"n_ctx": N_CTX})
    return estimate(read_header(model), option_values(options)).needed


def ask(port: int, name: str, **fields: object) -> tuple[int, Any]:
    """Return the status and the body of a completion by a model."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    body = {"model": name, "prompt": "Once upon a time", "max_tokens": 16, "keep_alive": TTL_SECONDS, **fields}
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def resident(program: Program) -> int:
    """Return the bytes that the server and its processes hold; what ends meanwhile counts as nothing."""
    total = 0
    for pid in process_tree(program.pid):
        try:
            total += memory(pid).resident
        except OSError:
            continue
    return total


def workers(program: Program) -> int:
    count = 0
    for pid in process_tree(program.pid):
        try:
            count += b"modules.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    choice = random.Random(args.seed)
    names = [choice.choice(NAMES) for _ in range(args.requests)]
    title = f"{args.requests} requests of {args.clients} clients for two models of which one fits"
    with session(title), tight_program(args.model, *NAMES) as program:
        time.sleep(1)
        before = resident(program)
        began = time.monotonic()
        most = 0
        with ThreadPoolExecutor(args.clients) as pool:
            waiting = [pool.submit(ask, program.port, name) for name in names]
            while not all(answer.done() for answer in waiting):
                most = max(most, workers(program))
                time.sleep(0.1)
        answers, seconds = [answer.result() for answer in waiting], time.monotonic() - began
        wait_for_sleep(program)
        report(names, answers, seconds, most, resident(program) - before)


def wait_for_sleep(program: Program) -> None:
    deadline = time.monotonic() + 60
    while workers(program) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)


def report(names: list[str], answers: list[tuple[int, Any]], seconds: float, most: int, growth: int) -> None:
    right = sum(status == 200 and body["model"] == name for name, (status, body) in zip(names, answers, strict=True))
    statuses = sorted({status for status, _ in answers})
    table(("requests", "seconds", "statuses"), [(str(len(names)), seconds, str(statuses))])
    for status, body in answers:
        if status != 200:
            print(status, body)
    verdict("answered by the model that was asked for", f"{right} of {len(names)}", "all", right == len(names))
    verdict("models in memory at once", str(most), "1", most == 1)
    limit = f"within {MAX_DIFFERENCE / MB:.0f} MB"
    verdict("memory after both fell asleep", f"{growth / MB:+.1f} MB", limit, abs(growth) <= MAX_DIFFERENCE)


if __name__ == "__main__":
    main()
