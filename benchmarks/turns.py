"""Time to the first token: of a new prompt, in a second turn after a long first one, and during another long prompt.

New prompt: one of 512 and one of 1,500 tokens, of which nothing is in a cache, ours and llama-server's alternately.

Second turn: a chat whose first message has 1,500 tokens is answered with 16 tokens; then a short question follows, a
second later, as a fast reader would send it, or at once, as a program does. The result is the time from the second
request to the first chunk of its answer, ours and llama-server's alternately; both have the first turn in their caches.
During a long prompt: one client sends 1,500 tokens and, 1 s later, another one sends 16; the result is the time to the
second client's first token.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from peers import PROGRAMS, LlamaServer, ask, require
from program import MODEL, Program, explain

MAX_TURN_RATIOS = {1.0: 0.95, 0.0: 0.95}
"""Limits relative to llama-server, by the seconds between the first answer and the second request."""
MAX_CONCURRENT_SECONDS = 1.0
MAX_PROMPT_RATIO = 1.0
"""Limit of a new prompt, relative to llama-server."""
LONG_TOKENS = 1500
PROMPT_TOKENS = (512, LONG_TOKENS)
ROUNDS = 7
CONTEXT = 16384
WORDS = ["the", "of", "a", "moon", "sea", "tree", "river", "stone", "light", "house", "bird", "hill", "road", "winter"]
CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--llama-server", type=Path, default=PROGRAMS / "llama-server")
    args = parser.parse_args()
    require(args.llama_server)
    plan = explain(args.model)
    with (
        session(f"First tokens: {args.model.name}, {args.rounds} rounds"),
        Program("--api", "--nowebui", "--model-dir", str(args.model.parent)) as program,
        LlamaServer(args.llama_server, plan, 4, CONTEXT) as server,
    ):
        program.wait_for("/healthz")
        program.load(plan["model"])
        for port in (program.port, server.port):
            ask(port, PLAIN, {"prompt": "Hello", "max_tokens": 2})  # warm up
        prompts = {
            tokens: [
                (new_prompt(program.port, tokens, seed), new_prompt(server.port, tokens, seed))
                for seed in range(10_000 + index * args.rounds, 10_000 + (index + 1) * args.rounds)
            ]
            for index, tokens in enumerate(PROMPT_TOKENS)
        }
        turns = {
            pause: [
                (second_turn(program.port, seed, pause), second_turn(server.port, seed, pause))
                for seed in range(args.rounds * index, args.rounds * (index + 1))
            ]
            for index, pause in enumerate(MAX_TURN_RATIOS)
        }
        concurrent = [
            (during_long_prompt(program.port, number), during_long_prompt(server.port, number))
            for number in range(args.rounds)
        ]
    report(prompts, turns, concurrent)


def long_text(seed: int, tokens: int = LONG_TOKENS) -> str:
    """Return a text of that many one-token words that shares no prefix with that of another seed."""
    generator = random.Random(seed)
    return " ".join(generator.choice(WORDS) for _ in range(tokens))


def new_prompt(port: int, tokens: int, seed: int) -> float:
    """Return the seconds to the first token after a prompt that is in no cache."""
    return ask(port, PLAIN, {"prompt": long_text(seed, tokens), "max_tokens": 2, "temperature": 0}).first_token_seconds


def second_turn(port: int, seed: int, pause: float) -> float:
    """Return the seconds to the first token of the second answer, requested `pause` seconds after the first one."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": long_text(seed)}]
    first = ask(port, CHAT, {"messages": messages, "max_tokens": 16, "temperature": 0})
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "What was that about?"}]
    time.sleep(pause)
    return ask(port, CHAT, {"messages": messages, "max_tokens": 4, "temperature": 0}).first_token_seconds


def during_long_prompt(port: int, seed: int) -> float:
    """Return the seconds to the first token for a short prompt that arrives during the prefill of a long one."""
    body = {"prompt": long_text(1000 + seed), "max_tokens": 2, "temperature": 0}
    long_request = threading.Thread(target=ask, args=(port, PLAIN, body))
    long_request.start()
    time.sleep(1.0)
    short = " ".join(random.Random(2000 + seed).choice(WORDS) for _ in range(16))
    seconds = ask(port, PLAIN, {"prompt": short, "max_tokens": 2, "temperature": 0}).first_token_seconds
    long_request.join()
    return seconds


Pairs = list[tuple[float, float]]


def report(prompts: Mapping[int, Pairs], turns: Mapping[float, Pairs], concurrent: Pairs) -> None:
    rows = []
    measured = {f"new prompt of {tokens} tokens": pairs for tokens, pairs in prompts.items()}
    measured |= {f"second turn, {pause:.0f} s later": pairs for pause, pairs in turns.items()}
    for name, pairs in (*measured.items(), ("during a long prompt", concurrent)):
        ours, theirs = (list(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(our_time / their_time for our_time, their_time in pairs)
        rows.append((name, statistics.median(ours), max(ours), statistics.median(theirs), ratio))
    table(["seconds to the first token", "ours", "longest", "llama-server", "ratio"], rows)
    limits = [MAX_PROMPT_RATIO for _ in prompts] + list(MAX_TURN_RATIOS.values())
    for (name, _, _, _, ratio), limit in zip(rows, limits, strict=False):
        verdict(f"{name}, relative to llama-server", f"{ratio:.2f}", f"{limit} at most", ratio <= limit)
    longest, limit_text = rows[-1][2], f"{MAX_CONCURRENT_SECONDS} s at most"
    verdict("Longest during a long prompt", f"{longest:.2f} s", limit_text, longest <= MAX_CONCURRENT_SECONDS)


if __name__ == "__main__":
    main()
