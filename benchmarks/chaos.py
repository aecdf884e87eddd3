"""Clients that hang up, workers that are killed and loads that fail: each request is answered or told why.

    .venv/bin/python benchmarks/chaos.py [--minutes 10] [--clients 8] [--seed 1] [--model models/…gguf]

Two models, of which one fits into memory, a model that cannot be loaded and a name that does not exist are asked for at
random, with and without streams; a worker is killed about every KILL_SECONDS. At the end all models must answer again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from figures import session, table, verdict
from program import MODEL, Program, process_tree
from residents import NAMES, PATIENCE_SECONDS, ask, tight_program

KILL_SECONDS = 20.0
FAILING, UNKNOWN = "failing.gguf", "gpt-4o"
FAILURE_SECONDS = 31.0
"""A little longer than a failed load is remembered."""

Outcomes = collections.Counter[tuple[str, str]]


class Client:
    """One client, which goes on until `stop` is set. `outcomes` are counted by model and how the request ended."""

    def __init__(self, port: int, choice: random.Random, outcomes: Outcomes) -> None:
        self._port, self._choice, self._outcomes = port, choice, outcomes

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            name = self._choice.choices((*NAMES, FAILING, UNKNOWN), (6, 6, 1, 1))[0]
            hangs_up = self._choice.random() < 0.2
            try:
                end = self._request(name, self._choice.random() < 0.5, self._choice.uniform(0, 2) if hangs_up else 0)
            except TimeoutError:
                end = "hung up" if hangs_up else f"FAILED: no answer within {PATIENCE_SECONDS:.0f} s"
            except (OSError, http.client.HTTPException, ValueError) as error:
                end = f"FAILED {type(error).__name__}: {error}"[:80]
            self._outcomes[name, end] += 1
            stop.wait(self._choice.expovariate(4))

    def _request(self, name: str, stream: bool, patience: float) -> str:
        body = {"model": name, "prompt": "Once upon a time", "max_tokens": self._choice.randrange(1, 48)}
        body |= {"stream": stream, "keep_alive": self._choice.choice((0, 1, 60))}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=patience or PATIENCE_SECONDS)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return how_it_ended(response.status, response.read(), b"data: [DONE]" if stream else b'"choices"')


def how_it_ended(status: int, body: bytes, expected: bytes) -> str:
    """Return "answered", or the code of the error, which must have a message."""
    if status == 200 and expected in body:
        return "answered"
    last = body.strip().split(b"\n\n")[-1].removeprefix(b"data: ")
    error = json.loads(last)["error"]
    return str(error["code"]) if error["message"] else f"FAILED {status} without a message"


def kill_workers(program: Program, choice: random.Random, stop: threading.Event) -> int:
    kills = 0
    while not stop.wait(choice.expovariate(1 / KILL_SECONDS)):
        for pid in process_tree(program.pid):
            with contextlib.suppress(OSError):
                if b"modules.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
                    break
    return kills


def make_failing(folder: Path) -> None:
    """Write a model whose header is valid, but which has no weights."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.support.gguf_files import gguf

    (folder / FAILING).write_bytes(gguf())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    outcomes: Outcomes = collections.Counter()
    title = f"{args.clients} clients for {args.minutes:g} minutes, which hang up; workers that are killed"
    with session(title), tight_program(args.model, *NAMES, prepare=make_failing) as program:
        stop = threading.Event()
        clients = [Client(program.port, random.Random(f"{args.seed} {n}"), outcomes) for n in range(args.clients)]
        threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
        for thread in threads:
            thread.start()
        threading.Timer(60 * args.minutes, stop.set).start()
        kills = kill_workers(program, random.Random(args.seed), stop)
        for thread in threads:
            thread.join()
        time.sleep(FAILURE_SECONDS)
        afterwards = [ask(program.port, name)[0] for name in NAMES]
        report(outcomes, kills, afterwards)


def report(outcomes: Outcomes, kills: int, afterwards: list[int]) -> None:
    table(("model", "end", "times"), [(*key, str(count)) for key, count in sorted(outcomes.items())])
    print(f"{kills} workers were killed.")
    failed = sum(count for (_, end), count in outcomes.items() if end.startswith("FAILED"))
    verdict("requests without an answer or a reason", f"{failed} of {outcomes.total()}", "0", failed == 0)
    verdict("answers afterwards", str(afterwards), "200 each", set(afterwards) == {200})


if __name__ == "__main__":
    main()
