"""How fast an answer streams over the API to one client, against llama-bench tg128 and llama-server.

Rounds of all three, one after the other. The servers: the time between the first and the last token's arrival at a
client on the same machine, for 128 tokens after the first. llama-bench: `-p 0 -n 128`. All with the same file, thread
count and flash attention. They take turns on the same cores, so that a machine that slows down slows all.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from figures import session, table, verdict
from peers import PROGRAMS, LlamaServer, ask, llama_bench, require
from program import MODEL, Program, explain

BENCH_FLOOR = 0.92
SERVER_FLOOR = 0.95
ROUNDS = 15
REPEATS = 2
TOKENS = 128
CONTEXT = 8192
PROMPT = "Once upon a time, in a small village by the sea, there lived"  # SmolLM2 goes on for hundreds of tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--programs", type=Path, default=PROGRAMS, help="where llama-bench and llama-server are")
    args = parser.parse_args()
    bench, server = args.programs / "llama-bench", args.programs / "llama-server"
    require(bench)
    require(server)
    told = explain(args.model)
    title = f"Streamed decode, one client: {args.model.name}, {TOKENS} tokens, {REPEATS} answers a side"
    with (
        session(f"{title}, {args.rounds} rounds"),
        Program("--api", "--nowebui", "--model-dir", str(args.model.parent)) as program,
        LlamaServer(server, told, 4, CONTEXT) as theirs,
    ):
        program.wait_for("/healthz")
        program.load(told["model"])
        over_api(program.port)  # the first ones fill caches
        over_api(theirs.port)
        report(
            [
                (over_api(program.port), llama_bench(bench, told, TOKENS, REPEATS), over_api(theirs.port))
                for _ in range(args.rounds)
            ]
        )


def over_api(port: int) -> float:
    """Tokens a second: the median of several answers, each of which must be of full length."""
    body = {"prompt": PROMPT, "max_tokens": TOKENS + 1, "temperature": 0}
    answers = [ask(port, "/v1/completions", body) for _ in range(REPEATS)]
    for answer in answers:
        if (answer.tokens, answer.end) != (TOKENS + 1, "length"):
            sys.exit(f"The model ended its answer after {answer.tokens} tokens: no prompt for this measurement.")
    return statistics.median(answer.rate for answer in answers)


def report(rounds: list[tuple[float, float, float]]) -> None:
    ours, bench, server = (list(column) for column in zip(*rounds, strict=True))
    rows: list[tuple[str, float, float, float, float]] = []
    for name, theirs in (("llama-bench", bench), ("llama-server", server)):
        ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        rows.append((name, statistics.median(theirs), statistics.median(ratios), min(ratios), max(ratios)))
    print(f"\n  ours, over the API: {statistics.median(ours):.1f} tokens a second (median)")
    table(["against", "tokens a second", "ours to it", "lowest", "highest"], rows)
    for row, floor in zip(rows, (BENCH_FLOOR, SERVER_FLOOR), strict=True):
        verdict(f"To {row[0]}", f"{row[2]:.2f}", f"{floor:.2f} at least", row[2] >= floor)


if __name__ == "__main__":
    main()
