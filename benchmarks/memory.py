"""Memory of the program over several cycles of Load and Unload, to check that Unload frees what Load allocated.

Measured from /proc for the main process and all its descendants: before Load, loaded, after some answers, after Unload.
RSS counts a page that two processes share twice, PSS once; the worse of the two is compared with the limit.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from figures import MB, session, table, verdict
from program import MODEL, Memory, Program, explain, memory, process_tree

MAX_DIFFERENCE = 20 * MB
CYCLES = 5
ANSWERS = 4
SETTLE_SECONDS = 0.5

Cycle = tuple[Memory, Memory, Memory, Memory]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--cycles", type=int, default=CYCLES)
    args = parser.parse_args()
    name = explain(args.model)["model"]
    title = f"Memory of all processes over {args.cycles} cycles of Load, {ANSWERS} answers, Unload: {name}"
    with session(title), Program("--api", "--model-dir", str(args.model.parent)) as program:
        program.wait_for("/zh/")
        report([cycle(program, name) for _ in range(args.cycles)])


def cycle(program: Program, name: str) -> Cycle:
    before = settled(program)
    program.load(name)
    loaded = settled(program)
    for number in range(ANSWERS):
        body = {"prompt": f"Story number {number}: Once upon a time", "max_tokens": 128, "temperature": 0}
        program.post("/v1/completions", body)
    answered = settled(program)
    program.unload()
    return before, loaded, answered, settled(program)


def settled(program: Program) -> Memory:
    time.sleep(SETTLE_SECONDS)
    return memory(*process_tree(program.pid))


def report(cycles: list[Cycle]) -> None:
    columns = ["before", "loaded", "answered", "unloaded", "unloaded - before", "since first cycle"]
    for kind in ("resident", "proportional"):
        rows = []
        for number, moments in enumerate(cycles, 1):
            values = [getattr(moment, kind) / MB for moment in moments]
            start = getattr(cycles[0][0], kind) / MB
            rows.append((f"cycle {number}", *values, f"{values[3] - values[0]:+.2f}", f"{values[3] - start:+.2f}"))
        table([f"MB, {'RSS' if kind == 'resident' else 'PSS'}", *columns], rows)
    worst = max(differences(cycles), key=abs)
    limit = f"within {MAX_DIFFERENCE / MB:.0f} MB"
    verdict("Largest difference after Unload", f"{worst / MB:+.1f} MB", limit, abs(worst) <= MAX_DIFFERENCE)


def differences(cycles: list[Cycle]) -> list[int]:
    """Return the differences of memory after each Unload to that before the same Load and before the first Load.

    The latter show a slow leak.
    """
    pairs = [(before, after) for before, _, _, after in cycles]
    pairs += [(cycles[0][0], after) for _, _, _, after in cycles]
    kinds = ("resident", "proportional")
    return [getattr(after, kind) - getattr(before, kind) for before, after in pairs for kind in kinds]


if __name__ == "__main__":
    main()
