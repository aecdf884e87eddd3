"""How much longer Load takes through the program than llama.cpp alone needs for the same file.

Ours: a POST to /v1/internal/model/load of a running `server.py`, until its answer. Theirs: a whole Python process that
makes the same two calls of llama.h with the same parameters (`--explain` tells them) and ends the moment it has a
context. Ours begins a process as well, and evaluates one token besides, so that the first answer need not wait.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from program import MODEL, Program, explain

FLOOR_SECONDS = 0.7
ROUNDS = 9

BARE = """
import json, os, sys
import llama_cpp.llama_cpp as native

def filled(params, values):
    for name, value in values.items():
        if name != "path_model":
            setattr(params, name, value)
    return params

calls = json.loads(sys.argv[1])
native.llama_backend_init()
load = calls["llama_model_load_from_file"]
params = filled(native.llama_model_default_params(), load)
model = native.llama_model_load_from_file(os.fsencode(load["path_model"]), params)
params = filled(native.llama_context_default_params(), calls["llama_init_from_model"])
assert model and native.llama_init_from_model(model, params)
os._exit(0)  # nothing is taken down: ours has not done that either when it is ready
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    told = explain(args.model)
    with session(f"Load until ready: {args.model.name}, {args.rounds} rounds, the sides in turn"):
        report(*measure(args.model, told, args.rounds))


def measure(model: Path, told: Any, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round, ours and theirs. A first round, in which files come from the disk, is not counted."""
    ours, bare = [], []
    with Program("--api", "--nowebui", "--model-dir", str(model.parent)) as program:
        program.wait_for("/healthz")
        for _ in range(rounds + 1):
            bare.append(bare_load(told["calls"]))
            ours.append(program.load(told["model"]))
            program.unload()
    return ours[1:], bare[1:]


def bare_load(calls: Any) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", BARE, json.dumps(calls)], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def report(ours: list[float], bare: list[float]) -> None:
    sides = {"Load through the API": ours, "bare process": bare}
    rows = [(name, statistics.median(each), min(each), max(each)) for name, each in sides.items()]
    table(["seconds", "median", "best", "worst"], rows)
    more = rows[0][1] - rows[1][1]
    told = f"{more:+.2f} s (ratio {rows[0][1] / rows[1][1]:.2f})"
    verdict("Load takes longer by", told, f"{FLOOR_SECONDS:+.1f} s at most", more <= FLOOR_SECONDS)


if __name__ == "__main__":
    main()
