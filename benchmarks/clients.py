"""How many tokens a second several clients get together, streamed over the API, against `llama-server -np 8`.

All clients of a round ask at the same moment, each with a prompt of its own, for the same number of tokens; what counts
is all their tokens over the time until the last one has its answer. The two servers are asked in turn.
"""

from __future__ import annotations

import argparse
import statistics
import threading
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from peers import PROGRAMS, WITHOUT_END, LlamaServer, ask, require
from program import MODEL, Program, explain

FLOORS = {1: 0.95, 4: 1.0, 8: 0.95}
SLOTS = 8
TOKENS = 128
ROUNDS = 7
CONTEXT = 8192
PLACES = ("village by the sea", "town in the hills", "city of glass", "house by the river")
PROMPTS = [f"Once upon a time, in a small {place}, there lived {who}" for place in PLACES for who in ("a", "an old")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--llama-server", type=Path, default=PROGRAMS / "llama-server")
    args = parser.parse_args()
    require(args.llama_server)
    told = explain(args.model)
    with (
        session(f"Concurrent clients: {args.model.name}, {TOKENS} tokens each, {args.rounds} rounds"),
        Program("--api", "--nowebui", "--parallel", str(SLOTS), "--model-dir", str(args.model.parent)) as program,
        LlamaServer(args.llama_server, told, SLOTS, CONTEXT) as server,
    ):
        program.wait_for("/healthz")
        program.load(told["model"])
        for port, extra in ((program.port, WITHOUT_END), (server.port, {"ignore_eos": True})):
            together(port, 1, extra)  # the first one fills caches
        report(
            {
                clients: [
                    (together(program.port, clients, WITHOUT_END), together(server.port, clients, {"ignore_eos": True}))
                    for _ in range(args.rounds)
                ]
                for clients in FLOORS
            }
        )


def together(port: int, clients: int, extra: dict[str, Any]) -> float:
    """Tokens a second of so many clients in all."""
    ready = threading.Barrier(clients)
    spans: list[tuple[float, float]] = []

    def client(prompt: str) -> None:
        ready.wait()
        body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **extra}
        answer = ask(port, "/v1/completions", body)
        if (answer.tokens, answer.end) != (TOKENS, "length"):
            raise AssertionError(f"an answer of {answer.tokens} tokens that ended with {answer.end!r}")
        spans.append((answer.asked, answer.arrivals[-1]))

    threads = [threading.Thread(target=client, args=(prompt,)) for prompt in PROMPTS[:clients]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spans) == clients, "a client failed"
    return clients * TOKENS / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def report(measured: dict[int, list[tuple[float, float]]]) -> None:
    rows = []
    for clients, pairs in measured.items():
        ratios = [ours / theirs for ours, theirs in pairs]
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append((f"{clients} clients", ours, theirs, statistics.median(ratios), min(ratios), max(ratios)))
    table(["tokens a second", "ours", "llama-server", "ratio", "lowest", "highest"], rows)
    for (clients, floor), row in zip(FLOORS.items(), rows, strict=True):
        verdict(f"{clients} clients", f"{row[3]:.2f}", f"{floor:.2f} at least", float(row[3]) >= floor)


if __name__ == "__main__":
    main()
