"""How fast an answer streams to one client while another program keeps a processor busy, against llama-server.

Three situations: nothing else runs; another program works 40 % of the time on one processor; it works all the time.
In each, rounds of ours and of llama-server in turn, 128 tokens after the first over the API, with the same file and
thread count. What counts are the ratios of each round.

`--also GOMP_SPINCOUNT=3000` measures a further program of ours with that variable, in the same rounds; any variable
of DECIDED_BY_USER in modules/runtime/worker_process.py leaves its threads unbound. `--pair` measures two programs that
answer at the same time: both bound, one bound and one not, and two llama-servers.
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

FLOORS = {0.0: 0.98, 0.4: 0.9, 1.0: 0.7}
"""How fast ours must be, relative to llama-server, beside a program that works that share of the time."""
ROUNDS, TOKENS, CONTEXT = 5, 128, 8192
PERIOD_SECONDS = 0.05
"""How often the other program starts its work anew: 40 % are 20 ms of work and then 30 ms of sleep."""
UNBOUND = {"OMP_WAIT_POLICY": "passive"}
"""What a second worker gets beside a bound one."""
PROMPT = "Once upon a time, in a small village by the sea, there lived"  # SmolLM2 goes on for hundreds of tokens


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        work(float(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--shares", type=float, nargs="+", default=list(FLOORS), help="of the other program, 0 to 1")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--pair", action="store_true", help="two programs at the same time, instead")
    parser.add_argument("--programs", type=Path, default=PROGRAMS, help="where llama-server is")
    args = parser.parse_args()
    server = args.programs / "llama-server"
    require(server)
    told = explain(args.model)
    others = [dict([each.split("=", 1)]) for each in args.also]
    title = f"Decode beside a busy program: {args.model.name}, {args.tokens} tokens, {args.rounds} rounds"
    with session(title), contextlib.ExitStack() as running:

        def ours(variables: Mapping[str, str]) -> int:
            flags = ("--api", "--nowebui", "--model-dir", str(args.model.parent))
            program = running.enter_context(Program(*flags, variables=variables))
            program.wait_for("/healthz")
            program.load(told["model"])
            return program.port

        def theirs() -> int:
            return running.enter_context(LlamaServer(server, told, 4, CONTEXT)).port

        if args.pair:
            pairs = {
                "ours, both bound": (ours({}), ours({})),
                "ours, the second unbound": (ours({}), ours(UNBOUND)),
                "llama-server": (theirs(), theirs()),
            }
            report_pairs(pairs, args.rounds, args.tokens)
        else:
            sides = {"ours": ours({}), "llama-server": theirs()}
            sides |= {each: ours(variables) for each, variables in zip(args.also, others, strict=True)}
            report(sides, args.shares, args.rounds, args.tokens)


# -- the other program ------------------------------------------------------------------------------------------------


def work(share: float) -> None:
    """Keep one processor busy for that share of the time, until killed. Work that came too late is made up for."""
    due = time.monotonic()
    while True:
        done = time.process_time() + share * PERIOD_SECONDS
        while time.process_time() < done:
            sum(range(1000))
        due = max(due + PERIOD_SECONDS, time.monotonic() - PERIOD_SECONDS)
        time.sleep(max(due - time.monotonic(), 0))


@contextlib.contextmanager
def busy(share: float) -> Iterator[None]:
    """Another program works that share of the time on one processor, meanwhile."""
    if not share:
        yield
        return
    with subprocess.Popen([sys.executable, __file__, "--work", str(share)]) as process:
        try:
            time.sleep(1)  # its start is over, and the scheduler knows it
            yield
        finally:
            process.kill()


# -- measuring ----------------------------------------------------------------------------------------------------


def rate(port: int, tokens: int) -> float:
    """Tokens a second of one answer, which must be of full length."""
    answer = ask(port, "/v1/completions", {"prompt": PROMPT, "max_tokens": tokens + 1, "temperature": 0})
    if (answer.tokens, answer.end) != (tokens + 1, "length"):
        sys.exit(f"The model ended its answer after {answer.tokens} tokens: no prompt for this measurement.")
    return answer.rate


def report(sides: Mapping[str, int], shares: Sequence[float], rounds: int, tokens: int) -> None:
    rows, reached = [], []
    for port in sides.values():
        rate(port, tokens)  # the first ones fill caches
    for share in shares:
        rates: dict[str, list[float]] = {side: [] for side in sides}
        with busy(share):
            for number in range(rounds):
                for side in sorted(sides, reverse=number % 2 == 1):  # nobody is always the first
                    rates[side].append(rate(sides[side], tokens))
        for side, measured in rates.items():
            ratios = [mine / other for mine, other in zip(measured, rates["llama-server"], strict=True)]
            rows.append(
                (f"{share:.0%} busy", side, *map(statistics.median, (measured, ratios)), min(ratios), max(ratios))
            )
            if side == "ours" and share in FLOORS:
                reached.append((f"Beside a program {share:.0%} busy", rows[-1][3], FLOORS[share]))
    table(["other program", "side", "tokens a second", "to llama-server", "lowest", "highest"], rows)
    for what, measured_ratio, floor in reached:
        verdict(what, f"{measured_ratio:.2f}", f"{floor:.2f} at least", measured_ratio >= floor)


def report_pairs(pairs: Mapping[str, tuple[int, int]], rounds: int, tokens: int) -> None:
    rates: dict[str, list[list[float]]] = {side: [] for side in pairs}
    for ports in pairs.values():
        together(ports, tokens)
    for number in range(rounds):
        for side in sorted(pairs, reverse=number % 2 == 1):
            rates[side].append(together(pairs[side], tokens))
    rows = []
    for side, measured in rates.items():
        first, second = (statistics.median(pair[place] for pair in measured) for place in (0, 1))
        rows.append((side, first, second, statistics.median(map(sum, measured))))
    table(["two at the same time", "first, tokens a second", "second", "both"], rows)


def together(ports: Sequence[int], tokens: int) -> list[float]:
    """Tokens a second of each of several answers that are asked for at the same moment."""
    rates: dict[int, float] = {}
    clients = [threading.Thread(target=lambda port=port: rates.update({port: rate(port, tokens)})) for port in ports]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return [rates[port] for port in ports]


if __name__ == "__main__":
    main()
