"""Decode speed for one client while another program keeps a processor busy, compared with llama-server.

Three situations: nothing else runs; another program works 40 % of the time on one processor; it works all the time.
In each, our program and llama-server alternate, with 128 tokens after the first over the API, and with the same file
and thread count. The ratios within each round are what counts.

`--also GOMP_SPINCOUNT=3000` measures one more instance of our program with that variable, in the same rounds; any
variable of DECIDED_BY_USER in modules/runtime/worker_process.py leaves its threads unbound. `--pair` measures two
models that answer at the same time, and each of them alone: in our program, and in two llama-servers.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from figures import session, table, verdict
from peers import PROGRAMS, LlamaServer, ask, require
from program import MODEL, Program, explain

MIN_RATIOS = {0.0: 1.03, 0.4: 0.97, 1.0: 0.95}
"""Required speed relative to llama-server, by the share of the time that the other program works."""
ROUNDS, TOKENS, CONTEXT = 5, 128, 8192
PERIOD_SECONDS = 0.05
"""Period of the other program: 40 % means 20 ms of work and then 30 ms of sleep."""
MIN_PAIR_RATIO = 1.0
"""Required speed of each of two models that answer at the same time, relative to two llama-servers."""
PROMPT = "Once upon a time, in a small village by the sea, there lived"  # SmolLM2 continues it for hundreds of tokens


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        work(float(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=list(MIN_RATIOS),
        help="share of the time that the other program works, 0 to 1",
    )
    parser.add_argument("--also", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--pair", action="store_true", help="measure two models at the same time instead")
    parser.add_argument("--programs", type=Path, default=PROGRAMS, help="folder with llama-server")
    args = parser.parse_args()
    server = args.programs / "llama-server"
    require(server)
    plan = explain(args.model)
    extra_variables = [dict([variable.split("=", 1)]) for variable in args.also]
    title = f"Decode with another program running: {args.model.name}, {args.tokens} tokens, {args.rounds} rounds"
    with session(title), contextlib.ExitStack() as stack:

        def ours(variables: Mapping[str, str]) -> int:
            flags = ("--api", "--nowebui", "--model-dir", str(args.model.parent))
            program = stack.enter_context(Program(*flags, variables=variables))
            program.wait_for("/healthz")
            program.load(plan["model"])
            return program.port

        def theirs() -> int:
            return stack.enter_context(LlamaServer(server, plan, 4, CONTEXT)).port

        if args.pair:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            report_pairs(
                {"ours": two_models(stack, args.model, folder), "llama-server": ((theirs(), {}), (theirs(), {}))}, args
            )
        else:
            sides = {"ours": ours({}), "llama-server": theirs()}
            sides |= {name: ours(variables) for name, variables in zip(args.also, extra_variables, strict=True)}
            report(sides, args.shares, args.rounds, args.tokens)


# -- the other program ------------------------------------------------------------------------------------------------


def work(share: float) -> None:
    """Keep one processor busy for that share of the time, until killed. Sleep less after a delayed period."""
    deadline = time.monotonic()
    while True:
        target = time.process_time() + share * PERIOD_SECONDS
        while time.process_time() < target:
            sum(range(1000))
        deadline = max(deadline + PERIOD_SECONDS, time.monotonic() - PERIOD_SECONDS)
        time.sleep(max(deadline - time.monotonic(), 0))


@contextlib.contextmanager
def busy(share: float) -> Iterator[None]:
    """Run another program that works that share of the time on one processor."""
    if not share:
        yield
        return
    with subprocess.Popen([sys.executable, __file__, "--work", str(share)]) as process:
        try:
            time.sleep(1)  # until it has started and the scheduler has settled
            yield
        finally:
            process.kill()


# -- measuring ----------------------------------------------------------------------------------------------------


def rate(port: int, tokens: int, **fields: str) -> float:
    """Return the tokens per second of one answer, which must have full length."""
    answer = ask(port, "/v1/completions", {"prompt": PROMPT, "max_tokens": tokens + 1, "temperature": 0, **fields})
    if (answer.tokens, answer.finish_reason) != (tokens + 1, "length"):
        sys.exit(f"The model ended its answer after {answer.tokens} tokens: use a prompt with a longer answer.")
    return answer.rate


def report(sides: Mapping[str, int], shares: Sequence[float], rounds: int, tokens: int) -> None:
    rows, results = [], []
    for port in sides.values():
        rate(port, tokens)  # warm up
    for share in shares:
        rates: dict[str, list[float]] = {side: [] for side in sides}
        with busy(share):
            for number in range(rounds):
                for side in sorted(sides, reverse=number % 2 == 1):  # neither side is always first
                    rates[side].append(rate(sides[side], tokens))
        for side, measured in rates.items():
            ratios = [ours / theirs for ours, theirs in zip(measured, rates["llama-server"], strict=True)]
            rows.append(
                (f"{share:.0%} busy", side, *map(statistics.median, (measured, ratios)), min(ratios), max(ratios))
            )
            if side == "ours" and share in MIN_RATIOS:
                results.append((f"Other program {share:.0%} busy", rows[-1][3], MIN_RATIOS[share]))
    table(["other program", "side", "tokens/s", "ratio to llama-server", "lowest", "highest"], rows)
    for name, measured_ratio, floor in results:
        verdict(name, f"{measured_ratio:.2f}", f"{floor:.2f} at least", measured_ratio >= floor)


# -- two models -------------------------------------------------------------------------------------------------------

Side = tuple[int, Mapping[str, str]]
"""The port of a server, and the fields of a request that choose its model."""


def two_models(stack: contextlib.ExitStack, model: Path, folder: Path) -> tuple[Side, Side]:
    """Load a file in our program twice, under two names in `folder`."""
    names = ("first.gguf", "second.gguf")
    for name in names:
        (folder / name).symlink_to(model.resolve())
    program = stack.enter_context(Program("--api", "--nowebui", "--model-dir", str(folder)))
    program.wait_for("/healthz")
    for name in names:
        ask(program.port, "/v1/completions", {"prompt": PROMPT, "max_tokens": 1, "model": name})
    return ((program.port, {"model": names[0]}), (program.port, {"model": names[1]}))


def report_pairs(pairs: Mapping[str, Sequence[Side]], args: argparse.Namespace) -> None:
    together_rates: dict[str, list[list[float]]] = {side: [] for side in pairs}
    alone_rates: dict[str, list[list[float]]] = {side: [] for side in pairs}
    for sides in pairs.values():
        together(sides, args.tokens)  # warm up
    for number in range(args.rounds):
        for name in sorted(pairs, reverse=number % 2 == 1):
            together_rates[name].append(together(pairs[name], args.tokens))
            alone_rates[name].append([rate(port, args.tokens, **fields) for port, fields in pairs[name]])
    rows = []
    for name in pairs:
        for what, rates in (("at the same time", together_rates), ("alone", alone_rates)):
            rows.append((name, what, *(statistics.median(pair[index] for pair in rates[name]) for index in (0, 1))))
    table(["side", "answers", "first, tokens/s", "second"], rows)
    for index, name in enumerate(("First", "Second")):
        both = zip(together_rates["ours"], together_rates["llama-server"], strict=True)
        ratio = statistics.median(ours[index] / theirs[index] for ours, theirs in both)
        verdict(f"{name} of two", f"{ratio:.2f}", f"{MIN_PAIR_RATIO:.2f} at least", ratio >= MIN_PAIR_RATIO)


def together(sides: Sequence[Side], tokens: int) -> list[float]:
    """Return the tokens per second of answers that are requested at the same moment, one per side."""
    rates: dict[int, float] = {}

    def client(number: int, port: int, fields: Mapping[str, str]) -> None:
        rates[number] = rate(port, tokens, **fields)

    clients = [threading.Thread(target=client, args=(number, *side)) for number, side in enumerate(sides)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return [rates[number] for number in range(len(sides))]


if __name__ == "__main__":
    main()
