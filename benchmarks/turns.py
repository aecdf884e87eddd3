"""How soon the first token comes: in a second turn after a long first one, and beside somebody else's long prompt.

Second turn: a chat whose first message has 1,500 tokens is answered with 16; then a short question follows. What counts
is the time from the second request to the first piece of its answer, ours and llama-server's in turn; both have the
first turn in their caches. Beside a long prompt: one client sends 1,500 tokens, 1 s later another one 16; what counts
is the other's first token.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from peers import PROGRAMS, LlamaServer, ask, require
from program import MODEL, Program, explain

TURN_FLOOR = 1.1
BESIDE_FLOOR = 1.0
LONG_TOKENS = 1500
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
    told = explain(args.model)
    with (
        session(f"First tokens: {args.model.name}, {args.rounds} rounds"),
        Program("--api", "--nowebui", "--model-dir", str(args.model.parent)) as program,
        LlamaServer(args.llama_server, told, 4, CONTEXT) as server,
    ):
        program.wait_for("/healthz")
        program.load(told["model"])
        for port in (program.port, server.port):
            ask(port, PLAIN, {"prompt": "Hello", "max_tokens": 2})  # the first one fills caches
        turns = [(second_turn(program.port, number), second_turn(server.port, number)) for number in range(args.rounds)]
        besides = [
            (beside_a_long_prompt(program.port, number), beside_a_long_prompt(server.port, number))
            for number in range(args.rounds)
        ]
    report(turns, besides)


def long_text(seed: int) -> str:
    """Of LONG_TOKENS tokens, a word each, and unlike that of any other seed from the beginning on."""
    dice = random.Random(seed)
    return " ".join(dice.choice(WORDS) for _ in range(LONG_TOKENS))


def second_turn(port: int, seed: int) -> float:
    """Seconds to the first token of the second answer."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": long_text(seed)}]
    first = ask(port, CHAT, {"messages": messages, "max_tokens": 16, "temperature": 0})
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "What was that about?"}]
    return ask(port, CHAT, {"messages": messages, "max_tokens": 4, "temperature": 0}).first


def beside_a_long_prompt(port: int, seed: int) -> float:
    """Seconds to the first token of the short prompt; much of a second if the long one had to be read first."""
    body = {"prompt": long_text(1000 + seed), "max_tokens": 2, "temperature": 0}
    other = threading.Thread(target=ask, args=(port, PLAIN, body))
    other.start()
    time.sleep(1.0)
    short = " ".join(random.Random(2000 + seed).choice(WORDS) for _ in range(16))
    first = ask(port, PLAIN, {"prompt": short, "max_tokens": 2, "temperature": 0}).first
    other.join()
    return first


def report(turns: list[tuple[float, float]], besides: list[tuple[float, float]]) -> None:
    rows = []
    for name, pairs in (("second turn", turns), ("beside a long prompt", besides)):
        ours, theirs = (list(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(mine / other for mine, other in pairs)
        rows.append((name, statistics.median(ours), max(ours), statistics.median(theirs), ratio))
    table(["seconds to the first token", "ours", "longest", "llama-server", "ratio"], rows)
    verdict("Second turn, to llama-server", f"{rows[0][4]:.2f}", f"{TURN_FLOOR} at most", rows[0][4] <= TURN_FLOOR)
    longest = rows[1][2]
    verdict("Beside a long prompt, longest", f"{longest:.2f} s", f"{BESIDE_FLOOR} s at most", longest <= BESIDE_FLOOR)


if __name__ == "__main__":
    main()
