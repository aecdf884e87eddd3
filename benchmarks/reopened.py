"""Time to the first token of a conversation that is reopened after a restart of server.py.

A chat whose first message has 3,000 tokens is answered with 16 tokens, and the server ends, by Ctrl-C or with `--kill`
by SIGKILL five seconds later. The saved prompt is dropped from the memory that caches files. Another server then
answers the second turn, and a third one without saved prompts answers the same; the model is loaded before the time is
taken. Their greedy texts must be equal. With `--delay`, short requests are sent while a prompt of that length is being
saved, and alternately with nothing to save.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import time
from pathlib import Path

from figures import session, table, verdict
from peers import Answer, ask
from program import MODEL, ROOT, Program

sys.path.insert(0, str(ROOT))
from tests.support.hf_folder import transformers_folder

MAX_RATIO = 0.15
MAX_DELAY_SECONDS = 0.1
TOKENS, CONTEXT = 3000, 4096
WORDS = ["the", "of", "a", "moon", "sea", "tree", "river", "stone", "light", "house", "bird", "hill", "road", "winter"]
CHAT = "/v1/chat/completions"
PROMPTS = ROOT / "cache" / "prompts"
SAVED_AFTER = 2.0
"""`IDLE_SECONDS` of modules/engines/prompt_cache/saving.py."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loader", choices=("llama.cpp", "Transformers"), default="llama.cpp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--delay", action="store_true")
    args = parser.parse_args()
    model = MODEL if args.loader == "llama.cpp" else transformers_folder(MODEL)
    before = set(saved())
    with session(f"Reopened: {model.name} with {args.loader}, {args.tokens} tokens, {args.rounds} rounds"):
        try:
            if args.delay:
                report_delays(delays(model, args.loader, args.tokens, args.rounds))
            else:
                seed = random.randrange(1 << 30)
                rounds = [reopen(model, args.loader, args.tokens, seed + n, args.kill) for n in range(args.rounds)]
                report(rounds)
        finally:
            for path in set(saved()) - before:
                path.unlink(missing_ok=True)


def saved() -> list[Path]:
    return list(PROMPTS.glob("*.kv"))


def server(model: Path, loader: str, gigabytes: float) -> Program:
    flags = ["--api", "--nowebui", "--model-dir", str(model.parent), "--prompt-cache-gb", str(gigabytes)]
    return Program(
        *flags, "--loader", loader, "--model", model.name, *(["--n_ctx", str(CONTEXT)] if model == MODEL else [])
    )


def ready(program: Program, model: Path) -> int:
    """Wait until the model is loaded and has answered once; return the port."""
    program.wait_for("/healthz")
    ask(program.port, CHAT, {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2, "model": model.name})
    return program.port


def long_text(tokens: int, seed: int) -> str:
    """Return a text of one-token words that shares no prefix with that of another seed."""
    generator = random.Random(seed)
    return " ".join(generator.choice(WORDS) for _ in range(tokens))


def turn(port: int, model: Path, messages: list[dict[str, str]]) -> Answer:
    return ask(port, CHAT, {"messages": messages, "max_tokens": 16, "temperature": 0, "model": model.name})


def reopen(model: Path, loader: str, tokens: int, seed: int, kill: bool) -> tuple[float, float, bool]:
    """Return the seconds to the first token of the reopened chat and of the one read anew, and whether they agree."""
    messages = [{"role": "user", "content": long_text(tokens, seed)}]
    known = set(saved())
    with server(model, loader, 2) as program:
        first = turn(ready(program, model), model, messages)
        if kill:
            time.sleep(SAVED_AFTER + 3)
            os.kill(program.pid, signal.SIGKILL)
    for path in set(saved()) - known:
        drop_from_memory(path)
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "What was that about?"}]
    answers = []
    for gigabytes in (2, 0):
        with server(model, loader, gigabytes) as program:
            answers.append(turn(ready(program, model), model, messages))
    reopened, anew = answers
    return reopened.first_token_seconds, anew.first_token_seconds, reopened.text == anew.text


def drop_from_memory(path: Path) -> None:
    """Have the next read of a file come from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report(rounds: list[tuple[float, float, bool]]) -> None:
    table(
        ["seconds to the first token", "anew", "ratio"],
        [(f"{ours:.2f}", anew, ours / anew) for ours, anew, _ in rounds],
    )
    ratio = statistics.median(ours / anew for ours, anew, _ in rounds)
    verdict("Reopened relative to read anew", f"{ratio:.3f}", f"{MAX_RATIO} at most", ratio <= MAX_RATIO)
    equal = sum(same for *_, same in rounds)
    verdict("Equal texts", f"{equal} of {len(rounds)}", "all", equal == len(rounds))


def delays(model: Path, loader: str, tokens: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds to the first token of short requests while a prompt is saved, and while nothing is."""
    times: tuple[list[float], list[float]] = [], []
    known = set(saved())
    with server(model, loader, 2) as saving, server(model, loader, 0) as idle:
        ports = [ready(program, model) for program in (saving, idle)]
        for port in ports:
            turn(port, model, [{"role": "user", "content": long_text(tokens, 1)}])
        for number in range(8 * rounds):
            for port, measured in zip(ports, times, strict=True):
                question = [{"role": "user", "content": f"{number} is a number. Say another."}]
                turn(port, model, question)
                for path in set(saved()) - known:  # so that the long prompt has to be saved again
                    path.unlink(missing_ok=True)
                time.sleep(SAVED_AFTER + 0.02 * (number % 8))
                measured.append(turn(port, model, question).first_token_seconds)
    return times


def report_delays(times: tuple[list[float], list[float]]) -> None:
    rows = [(name, statistics.median(one), max(one)) for name, one in zip(("saving", "idle"), times, strict=True)]
    table(["seconds to the first token", "median", "longest"], rows)
    delay = statistics.median(times[0]) - statistics.median(times[1])
    verdict("Delay of the median", f"{delay:.2f} s", f"{MAX_DELAY_SECONDS} s at most", delay <= MAX_DELAY_SECONDS)


if __name__ == "__main__":
    main()
