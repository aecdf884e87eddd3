"""Many clients for a long time: each request is answered or refused with a reason, and memory does not grow.

    .venv/bin/python benchmarks/soak.py [--minutes 20] [--clients 16] [--seed 1]

Each client goes on at random: it chats with or without a stream, vanishes in the middle of an answer, opens the page,
asks questions, sends nonsense, or loads the model anew. Memory is that of the server and its processes, sampled every
ten seconds; the median of the last quarter may exceed that of the second quarter by MAX_GROWTH.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from figures import session, table, verdict
from program import MODEL, Program, memory, process_tree

MAX_GROWTH = 0.05
SAMPLE_SECONDS = 10.0
PATIENCE_SECONDS = 180.0
"""Longer than an answer takes while all other clients are served, and the model is loaded anew."""


class Client:
    """One client, which goes on until `stop` is set. `outcomes` are counted by what was asked and how it ended."""

    def __init__(self, port: int, choice: random.Random, outcomes: collections.Counter[tuple[str, str]]) -> None:
        self._port, self._choice, self._outcomes = port, choice, outcomes
        self._actions: list[tuple[int, str, Callable[[], str]]] = [
            (30, "stream", self._stream),
            (20, "vanish", self._vanish),
            (15, "answer", self._answer),
            (10, "page", self._page),
            (15, "question", self._question),
            (9, "nonsense", self._nonsense),
            (1, "load", self._load),
        ]

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            weights = [weight for weight, _, _ in self._actions]
            ((_, name, action),) = self._choice.choices(self._actions, weights)
            try:
                end = action()
            except (OSError, http.client.HTTPException, ValueError) as error:
                end = f"FAILED {type(error).__name__}: {error}"[:80]
            self._outcomes[name, end] += 1
            stop.wait(self._choice.expovariate(2))

    def _chat_body(self, **fields: object) -> dict[str, object]:
        question = " ".join(self._choice.choices(["red", "green", "tell", "me", "why", "sky"], k=12))
        messages = [{"role": "user", "content": question}]
        return {"messages": messages, "max_tokens": self._choice.randrange(2, 40), **fields}

    def _stream(self) -> str:
        with self._request("POST", "/v1/chat/completions", self._chat_body(stream=True)) as (_, response):
            return _reason(response.status, response.read(), b"data: [DONE]")

    def _vanish(self) -> str:
        with self._request("POST", "/v1/chat/completions", self._chat_body(stream=True)) as (_, response):
            response.read(self._choice.randrange(1, 400))
            return "vanished"

    def _answer(self) -> str:
        with self._request("POST", "/v1/chat/completions", self._chat_body()) as (_, response):
            return _reason(response.status, response.read(), b'"choices"')

    def _page(self) -> str:
        with self._request("GET", f"/{self._choice.choice(['zh', 'en'])}/") as (_, response):
            return _reason(response.status, response.read(), b"gradio")

    def _question(self) -> str:
        text = "word " * self._choice.randrange(1, 20_000)
        with self._request("POST", "/v1/internal/token-count", {"text": text}) as (_, response):
            return _reason(response.status, response.read(), b'"length"')

    def _nonsense(self) -> str:
        body = self._choice.choice(
            [{}, {"messages": 7}, self._chat_body(temperature="hot"), self._chat_body(grammar_string="root ::= (")]
        )
        with self._request("POST", "/v1/chat/completions", body) as (_, response):
            return _reason(response.status, response.read(), b'"choices"')

    def _load(self) -> str:
        with self._request("POST", "/v1/internal/model/load", {"model_name": MODEL.name}) as (_, response):
            return _reason(response.status, response.read(), b"context_length")

    def _request(self, method: str, path: str, body: object = None) -> Exchange:
        return Exchange(self._port, method, path, body)


class Exchange:
    """A connection with one request, closed at the end of the `with` block."""

    def __init__(self, port: int, method: str, path: str, body: object) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        content = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, content, {"Content-Type": "application/json"})

    def __enter__(self) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        return self._connection, self._connection.getresponse()

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _reason(status: int, body: bytes, expected: bytes) -> str:
    """Return how a request ended: "answered", or the status and code of the error, which must have a message."""
    if status == 200 and expected in body:
        return "answered"
    error = json.loads(_last_event(body))["error"]
    return f"{status} {error['code']}" if error["message"] else f"FAILED {status} without a message"


def _last_event(body: bytes) -> bytes:
    """Return the data of the last event of a stream, or a body that is none."""
    return body.strip().split(b"\n\n")[-1].removeprefix(b"data: ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
    samples: list[int] = []
    with (
        session(f"{arguments.clients} clients for {arguments.minutes:.0f} minutes"),
        tempfile.TemporaryDirectory() as models,
    ):
        folder = Path(models)
        (folder / MODEL.name).symlink_to(MODEL)
        (folder / "settings.yaml").touch()
        flags = ("--model-dir", str(folder), "--settings", str(folder / "settings.yaml"))
        with Program("--api", *flags) as program:
            program.wait_for("/healthz")
            program.load(MODEL.name)
            stop = threading.Event()
            clients = [
                Client(program.port, random.Random(f"{arguments.seed} {number}"), outcomes)
                for number in range(arguments.clients)
            ]
            threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
            for thread in threads:
                thread.start()
            end = time.monotonic() + 60 * arguments.minutes
            while time.monotonic() < end:
                time.sleep(SAMPLE_SECONDS)
                samples.append(resident(program))
            stop.set()
            for thread in threads:
                thread.join()
    report(outcomes, samples)


def resident(program: Program) -> int:
    """Return the bytes that the server and its processes hold; what ended meanwhile counts as nothing."""
    total = 0
    for pid in process_tree(program.pid):
        try:
            total += memory(pid).resident
        except OSError:
            continue
    return total


def report(outcomes: collections.Counter[tuple[str, str]], samples: list[int]) -> None:
    table(("asked", "end", "times"), [(*key, count) for key, count in sorted(outcomes.items())])
    quarter = max(len(samples) // 4, 1)
    early = statistics.median(samples[quarter : 2 * quarter] or samples)
    late = statistics.median(samples[-quarter:])
    print("memory in MB:", *(round(sample / 1e6) for sample in samples[:: max(len(samples) // 20, 1)]))
    failed = sum(count for (_, end), count in outcomes.items() if end.startswith("FAILED"))
    verdict("requests without an answer or a reason", f"{failed} of {outcomes.total()}", "0", failed == 0)
    growth = late / early - 1
    verdict("growth of memory", f"{growth:.1%}", f"{MAX_GROWTH:.0%}", growth <= MAX_GROWTH)


if __name__ == "__main__":
    main()
