"""How fast an answer streams over the API to one client, against llama-bench tg128.

Both sides in pairs, one after the other. Ours: the time between the first and the last token's arrival at a client on
the same machine, for 128 tokens after the first. Theirs: `llama-bench -p 0 -n 128` with the same file, thread count and
flash attention. They take turns on the same cores, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from program import MODEL, PATIENCE_SECONDS, ROOT, Program, explain

FLOOR = 0.85
WANTED = 0.92  # by the issue that makes llama.cpp batch
PAIRS = 7
REPEATS = 3
TOKENS = 128
PROMPT = "Once upon a time, in a small village by the sea, there lived"  # SmolLM2 goes on for hundreds of tokens
LLAMA_BENCH = ROOT / "cache" / "llama.cpp" / "bin" / "llama-bench"


@dataclass(frozen=True)
class Answer:
    """What a client saw: when each piece of text came, and what the usage and the end said."""

    arrivals: list[float]
    tokens: int
    end: str

    @property
    def rate(self) -> float:
        """Tokens a second, the first one not counted: its time is the prompt's."""
        return (self.tokens - 1) / (self.arrivals[-1] - self.arrivals[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--llama-bench", type=Path, default=LLAMA_BENCH)
    args = parser.parse_args()
    require(args.llama_bench)
    told = explain(args.model)
    title = f"Streamed decode, one client: {args.model.name}, {TOKENS} tokens, {REPEATS} answers a side"
    with (
        session(f"{title}, {args.pairs} pairs"),
        Program("--api", "--nowebui", "--model-dir", str(args.model.parent)) as program,
    ):
        program.wait_for("/healthz")
        program.load(told["model"])
        over_api(program.port)  # the first one fills caches
        report([(over_api(program.port), llama_bench(args.llama_bench, told)) for _ in range(args.pairs)])


def require(llama_bench: Path) -> None:
    if not llama_bench.is_file():
        sys.exit(f"{llama_bench} is not there; benchmarks/README.md says how to build it.")


def over_api(port: int) -> float:
    """Tokens a second: the median of several answers, each of which must be of full length."""
    answers = [ask(port) for _ in range(REPEATS)]
    for answer in answers:
        if answer.end != "length":
            sys.exit(f"The model ended its answer after {answer.tokens} tokens: no prompt for this measurement.")
    return statistics.median(answer.rate for answer in answers)


def ask(port: int) -> Answer:
    """One streamed answer. While it runs, no more is done than to note the time: the cores are the model's."""
    body = {"prompt": PROMPT, "max_tokens": TOKENS + 1, "temperature": 0, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    pieces = []
    while piece := response.read1(65536):
        pieces.append((time.perf_counter(), piece))
    connection.close()
    if response.status != 200:
        sys.exit(f"/v1/completions answered {response.status}: {b''.join(piece for _, piece in pieces).decode()}")
    return read(pieces)


def read(pieces: list[tuple[float, bytes]]) -> Answer:
    arrivals, tokens, end = [], 0, ""
    for moment, event in events(pieces):
        for choice in event["choices"]:
            end = choice["finish_reason"] or end
            if choice["text"]:
                arrivals.append(moment)
        tokens = event["usage"]["completion_tokens"] if event.get("usage") else tokens
    return Answer(arrivals, tokens, end)


def events(pieces: list[tuple[float, bytes]]) -> Iterator[tuple[float, Any]]:
    """Each server-sent event, with the time at which it was complete."""
    held = b""
    for moment, piece in pieces:
        *whole, held = (held + piece).split(b"\n\n")
        for event in whole:
            data = event.removeprefix(b"data: ")
            if data != b"[DONE]":
                yield moment, json.loads(data)


def llama_bench(program: Path, told: Any) -> float:
    """Tokens a second: the median of as many runs as there are answers, after a warm-up of its own."""
    context = told["calls"]["llama_init_from_model"]
    words = [str(program), "-m", told["calls"]["llama_model_load_from_file"]["path_model"], "-o", "json"]
    words += ["-p", "0", "-n", str(TOKENS), "-r", str(REPEATS)]
    words += ["-t", str(context["n_threads"]), "-fa", str(context["flash_attn_type"])]
    run = subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    rates: list[float] = json.loads(run.stdout)[0]["samples_ts"]
    return statistics.median(rates)


def report(pairs: list[tuple[float, float]]) -> None:
    rows = [(f"pair {number}", ours, bench, ours / bench) for number, (ours, bench) in enumerate(pairs, 1)]
    columns = list(zip(*(row[1:] for row in rows), strict=True))
    table(
        ["tokens a second", "over the API", "llama-bench", "ratio"],
        [*rows, ("median", *map(statistics.median, columns))],
    )
    ratio = statistics.median(columns[2])
    verdict("Decode ratio", f"{ratio:.2f}", f"{FLOOR:.2f} at least", ratio >= FLOOR)
    print(f"The next issue wants {WANTED:.2f}: {'reaches' if ratio >= WANTED else 'misses'}")


if __name__ == "__main__":
    main()
