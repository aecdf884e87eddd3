"""Decode speed for one client while another program keeps a processor busy, compared with llama-server.

Three situations: nothing else runs; another program works 40 % of the time on one processor; it works all the time.
In each, our program and llama-server alternate, with 128 tokens after the first over the API, and with the same file
and thread count. The ratios within each round are what counts.

`--also GOMP_SPINCOUNT=3000` measures one more instance of our program with that variable, in the same rounds; any
variable of DECIDED_BY_USER in modules/runtime/worker_process.py leaves its threads unbound. `--pair` measures two
programs that answer at the same time: both bound, one bound and one unbound, and two llama-servers.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from figures import session, table, verdict
from peers import PROGRAMS, LlamaServer, ask, require
from program import MODEL, Program, explain

MIN_RATIOS = {0.0: 0.98, 0.4: 0.9, 1.0: 0.7}
"""Required speed relative to llama-server, by the share of the time that the other program works."""
ROUNDS, TOKENS, CONTEXT = 5, 128, 8192
PERIOD_SECONDS = 0.05
"""Period of the other program: 40 % means 20 ms of work and then 30 ms of sleep."""
UNBOUND = {"OMP_WAIT_POLICY": "passive"}
"""The environment of a second worker while another one is bound to the cores."""
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
    parser.add_argument("--pair", action="store_true", help="measure two programs at the same time instead")
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
            pairs = {
                "ours, both bound": (ours({}), ours({})),
                "ours, the second unbound": (ours({}), ours(UNBOUND)),
                "llama-server": (theirs(), theirs()),
            }
            report_pairs(pairs, args.rounds, args.tokens)
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


def rate(port: int, tokens: int) -> float:
    """Return the tokens per second of one answer, which must have full length."""
    answer = ask(port, "/v1/completions", {"prompt": PROMPT, "max_tokens": tokens + 1, "temperature": 0})
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


def report_pairs(pairs: Mapping[str, tuple[int, int]], rounds: int, tokens: int) -> None:
    rates: dict[str, list[list[float]]] = {side: [] for side in pairs}
    for ports in pairs.values():
        together(ports, tokens)
    for number in range(rounds):
        for side in sorted(pairs, reverse=number % 2 == 1):
            rates[side].append(together(pairs[side], tokens))
    rows = []
    for side, measured in rates.items():
        first, second = (statistics.median(pair[index] for pair in measured) for index in (0, 1))
        rows.append((side, first, second, statistics.median(map(sum, measured))))
    table(["two at the same time", "first, tokens/s", "second", "both"], rows)


def together(ports: Sequence[int], tokens: int) -> list[float]:
    """Return the tokens per second of answers that are requested at the same moment, one per port."""
    rates: dict[int, float] = {}
    clients = [threading.Thread(target=lambda port=port: rates.update({port: rate(port, tokens)})) for port in ports]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return [rates[port] for port in ports]


if __name__ == "__main__":
    main()
