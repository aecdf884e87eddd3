"""Total tokens per second of concurrent clients, streamed over the API, compared with `llama-server -np 8`.

All clients of a round send their requests at the same moment, with different prompts and the same number of tokens. The
result is the sum of their tokens divided by the time until the last answer is complete. The servers are measured
alternately. `--prompt-tokens 1000` gives every client a prompt of that length, which other rounds do not have, and
measures the tokens after the first one of the last client; `--unified` measures one more instance of our program, whose
requests share one KV cache.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from peers import IGNORE_EOS, PROGRAMS, Answer, LlamaServer, ask, require
from program import MODEL, Program, explain

MIN_RATIOS = {1: 1.03, 4: 1.05, 8: 1.05}
SLOTS = 8
TOKENS = 128
ROUNDS = 7
CONTEXT = 8192
WORDS = ["the", "of", "a", "moon", "sea", "tree", "river", "stone", "light", "house", "bird", "hill", "road", "winter"]
OURS, THEIRS = IGNORE_EOS, {"ignore_eos": True}
SETTINGS = ("village by the sea", "town in the hills", "city of glass", "house by the river")
PROMPTS = [
    f"Once upon a time, in a small {setting}, there lived {end}" for setting in SETTINGS for end in ("a", "an old")
]


Side = tuple[int, Mapping[str, Any]]
"""The port of a server, and further fields of its requests."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--clients", type=int, nargs="+", default=list(MIN_RATIOS))
    parser.add_argument("--prompt-tokens", type=int, default=0, help="length of the prompts; by default 16")
    parser.add_argument("--unified", action="store_true", help="also measure our program with --kv-unified on")
    parser.add_argument("--llama-server", type=Path, default=PROGRAMS / "llama-server")
    args = parser.parse_args()
    require(args.llama_server)
    plan = explain(args.model)
    context = CONTEXT if args.prompt_tokens < CONTEXT // SLOTS - TOKENS else SLOTS * (args.prompt_tokens + 2 * TOKENS)
    title = f"Concurrent clients: {args.model.name}, {TOKENS} tokens each, prompts of {args.prompt_tokens or 16} tokens"
    with session(f"{title}, {args.rounds} rounds"), contextlib.ExitStack() as stack:
        flags = ("--api", "--nowebui", "--parallel", str(SLOTS), "--model-dir", str(args.model.parent))
        sides = {}
        for side, more in {"ours": (), "ours, unified": ("--kv-unified", "on")}.items():
            if side == "ours" or args.unified:
                program = stack.enter_context(Program(*flags, *more))
                program.wait_for("/healthz")
                program.load(plan["model"])
                sides[side] = (program.port, OURS)
        server = stack.enter_context(LlamaServer(args.llama_server, plan, SLOTS, context))
        sides["llama-server"] = (server.port, THEIRS)
        report(measure(sides, args))


def measure(sides: Mapping[str, Side], args: argparse.Namespace) -> dict[int, list[dict[str, float]]]:
    """Return the rates of all sides in every round, by the number of clients."""
    for side in sides.values():
        total_rate(side, PROMPTS[:1], False)  # warm up
    measured: dict[int, list[dict[str, float]]] = {}
    for clients in args.clients:
        for number in range(args.rounds):
            prompts = [long_prompt(args.prompt_tokens, number, one) for one in range(clients)]
            prompts = prompts if args.prompt_tokens else PROMPTS[:clients]
            order = sorted(sides, reverse=number % 2 == 1)
            rates = {name: total_rate(sides[name], prompts, bool(args.prompt_tokens)) for name in order}
            measured.setdefault(clients, []).append(rates)
    return measured


def long_prompt(length: int, number: int, client: int) -> str:
    generator = random.Random(f"{number} {client}")
    return " ".join(generator.choice(WORDS) for _ in range(length))


def total_rate(side: Side, prompts: Sequence[str], decode_only: bool) -> float:
    """Return the tokens per second of all clients together; with `decode_only`, since all have their first token."""
    port, extra = side
    ready = threading.Barrier(len(prompts))
    answers: list[Answer] = []

    def client(prompt: str) -> None:
        ready.wait()
        body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **extra}
        answer = ask(port, "/v1/completions", body)
        if (answer.tokens, answer.finish_reason) != (TOKENS, "length"):
            raise AssertionError(f"an answer of {answer.tokens} tokens that ended with {answer.finish_reason!r}")
        answers.append(answer)

    threads = [threading.Thread(target=client, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(prompts), "a client failed"
    end = max(answer.arrivals[-1] for answer in answers)
    if not decode_only:
        return len(prompts) * TOKENS / (end - min(answer.sent for answer in answers))
    begin = max(answer.arrivals[0] for answer in answers)
    arrived = sum(sum(arrival > begin for arrival in answer.arrivals) / len(answer.arrivals) for answer in answers)
    return arrived * TOKENS / (end - begin)


def report(measured: Mapping[int, Sequence[Mapping[str, float]]]) -> None:
    rows, results = [], []
    for clients, rounds in measured.items():
        for side in rounds[0]:
            ratios = [rates[side] / rates["llama-server"] for rates in rounds]
            rates = statistics.median(one[side] for one in rounds)
            rows.append((f"{clients} clients", side, rates, statistics.median(ratios), min(ratios), max(ratios)))
            if side == "ours" and clients in MIN_RATIOS:
                results.append((clients, statistics.median(ratios)))
    table(["tokens/s", "side", "median", "ratio to llama-server", "lowest", "highest"], rows)
    for clients, ratio in results:
        floor = MIN_RATIOS[clients]
        verdict(f"{clients} clients", f"{ratio:.2f}", f"{floor:.2f} at least", ratio >= floor)


if __name__ == "__main__":
    main()
