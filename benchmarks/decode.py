"""Decode speed of an answer streamed over the API to one client, compared with llama-bench tg128 and llama-server.

Servers: the time between the arrival of the first and the last token at a client on the same machine, for 128 tokens
after the first. llama-bench: `-p 0 -n 128`. All three use the same file, thread count and flash attention. They
alternate on the same cores, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from figures import session, table, verdict
from peers import PROGRAMS, LlamaServer, ask, llama_bench, require
from program import MODEL, Program, explain

MIN_BENCH_RATIO = 0.98
MIN_SERVER_RATIO = 1.03
ROUNDS = 15
REPEATS = 2
TOKENS = 128
CONTEXT = 8192
PROMPT = "Once upon a time, in a small village by the sea, there lived"  # SmolLM2 continues it for hundreds of tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--programs", type=Path, default=PROGRAMS, help="folder with llama-bench and llama-server")
    args = parser.parse_args()
    bench, server = args.programs / "llama-bench", args.programs / "llama-server"
    require(bench)
    require(server)
    plan = explain(args.model)
    title = f"Streamed decode, one client: {args.model.name}, {TOKENS} tokens, {REPEATS} answers per side"
    with (
        session(f"{title}, {args.rounds} rounds"),
        Program("--api", "--nowebui", "--model-dir", str(args.model.parent)) as program,
        LlamaServer(server, plan, 4, CONTEXT) as theirs,
    ):
        program.wait_for("/healthz")
        program.load(plan["model"])
        over_api(program.port)  # warm up
        over_api(theirs.port)
        report(
            [
                (over_api(program.port), llama_bench(bench, plan, TOKENS, REPEATS), over_api(theirs.port))
                for _ in range(args.rounds)
            ]
        )


def over_api(port: int) -> float:
    """Return the median tokens per second of several answers, all of which must have full length."""
    body = {"prompt": PROMPT, "max_tokens": TOKENS + 1, "temperature": 0}
    answers = [ask(port, "/v1/completions", body) for _ in range(REPEATS)]
    for answer in answers:
        if (answer.tokens, answer.finish_reason) != (TOKENS + 1, "length"):
            sys.exit(f"The model ended its answer after {answer.tokens} tokens: use a prompt with a longer answer.")
    return statistics.median(answer.rate for answer in answers)


def report(rounds: list[tuple[float, float, float]]) -> None:
    ours, bench, server = (list(column) for column in zip(*rounds, strict=True))
    rows: list[tuple[str, float, float, float, float]] = []
    for name, theirs in (("llama-bench", bench), ("llama-server", server)):
        ratios = [our_rate / their_rate for our_rate, their_rate in zip(ours, theirs, strict=True)]
        rows.append((name, statistics.median(theirs), statistics.median(ratios), min(ratios), max(ratios)))
    print(f"\n  ours, over the API: {statistics.median(ours):.1f} tokens/s (median)")
    table(["compared with", "tokens/s", "ratio", "lowest", "highest"], rows)
    for row, floor in zip(rows, (MIN_BENCH_RATIO, MIN_SERVER_RATIO), strict=True):
        verdict(f"Relative to {row[0]}", f"{row[2]:.2f}", f"{floor:.2f} at least", row[2] >= floor)


if __name__ == "__main__":
    main()
