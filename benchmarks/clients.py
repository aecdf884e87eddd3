"""Total tokens per second of concurrent clients, streamed over the API, compared with `llama-server -np 8`.

All clients of a round send their requests at the same moment, with different prompts and the same number of tokens. The
result is the sum of their tokens divided by the time until the last answer is complete. The two servers are measured
alternately.
"""

from __future__ import annotations

import argparse
import statistics
import threading
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from peers import IGNORE_EOS, PROGRAMS, LlamaServer, ask, require
from program import MODEL, Program, explain

MIN_RATIOS = {1: 0.95, 4: 1.0, 8: 0.95}
SLOTS = 8
TOKENS = 128
ROUNDS = 7
CONTEXT = 8192
OURS, THEIRS = IGNORE_EOS, {"ignore_eos": True}
SETTINGS = ("village by the sea", "town in the hills", "city of glass", "house by the river")
PROMPTS = [
    f"Once upon a time, in a small {setting}, there lived {end}" for setting in SETTINGS for end in ("a", "an old")
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--llama-server", type=Path, default=PROGRAMS / "llama-server")
    args = parser.parse_args()
    require(args.llama_server)
    plan = explain(args.model)
    with (
        session(f"Concurrent clients: {args.model.name}, {TOKENS} tokens each, {args.rounds} rounds"),
        Program("--api", "--nowebui", "--parallel", str(SLOTS), "--model-dir", str(args.model.parent)) as program,
        LlamaServer(args.llama_server, plan, SLOTS, CONTEXT) as server,
    ):
        program.wait_for("/healthz")
        program.load(plan["model"])
        for port, extra in ((program.port, OURS), (server.port, THEIRS)):
            total_rate(port, 1, extra)  # warm up
        report(
            {
                clients: [
                    (total_rate(program.port, clients, OURS), total_rate(server.port, clients, THEIRS))
                    for _ in range(args.rounds)
                ]
                for clients in MIN_RATIOS
            }
        )


def total_rate(port: int, clients: int, extra: dict[str, Any]) -> float:
    """Return the tokens per second of all clients together."""
    ready = threading.Barrier(clients)
    spans: list[tuple[float, float]] = []

    def client(prompt: str) -> None:
        ready.wait()
        body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **extra}
        answer = ask(port, "/v1/completions", body)
        if (answer.tokens, answer.finish_reason) != (TOKENS, "length"):
            raise AssertionError(f"an answer of {answer.tokens} tokens that ended with {answer.finish_reason!r}")
        spans.append((answer.sent, answer.arrivals[-1]))

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
    table(["tokens/s", "ours", "llama-server", "ratio", "lowest", "highest"], rows)
    for (clients, floor), row in zip(MIN_RATIOS.items(), rows, strict=True):
        verdict(f"{clients} clients", f"{row[3]:.2f}", f"{floor:.2f} at least", float(row[3]) >= floor)


if __name__ == "__main__":
    main()
