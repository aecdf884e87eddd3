"""Time to load a model through the program, compared with llama.cpp alone for the same file.

Ours: a POST to /v1/internal/model/load of a running `server.py`, until its response. Baseline: a Python process that
makes the same two calls of llama.h with the same parameters (as printed by `--explain`) and exits as soon as it has a
context. Our program starts a process as well, and also evaluates one token to speed up the first answer.
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

MAX_EXTRA_SECONDS = 0.7
ROUNDS = 9

BARE = """
import json, os, sys
import llama_cpp.llama_cpp as native

def with_values(params, values):
    for name, value in values.items():
        if name != "path_model":
            setattr(params, name, value)
    return params

calls = json.loads(sys.argv[1])
native.llama_backend_init()
load = calls["llama_model_load_from_file"]
params = with_values(native.llama_model_default_params(), load)
model = native.llama_model_load_from_file(os.fsencode(load["path_model"]), params)
params = with_values(native.llama_context_default_params(), calls["llama_init_from_model"])
assert model and native.llama_init_from_model(model, params)
os._exit(0)  # without cleanup, which our program has not done either when it is ready
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    plan = explain(args.model)
    with session(f"Load until ready: {args.model.name}, {args.rounds} rounds, alternating"):
        report(*measure(args.model, plan, args.rounds))


def measure(model: Path, plan: Any, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of all rounds, ours and the baseline's, without a first round that reads files from disk."""
    ours, bare = [], []
    with Program("--api", "--nowebui", "--model-dir", str(model.parent)) as program:
        program.wait_for("/healthz")
        for _ in range(rounds + 1):
            bare.append(bare_load(plan["calls"]))
            ours.append(program.load(plan["model"]))
            program.unload()
    return ours[1:], bare[1:]


def bare_load(calls: Any) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", BARE, json.dumps(calls)], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def report(ours: list[float], bare: list[float]) -> None:
    sides = {"Load through the API": ours, "bare process": bare}
    rows = [(name, statistics.median(seconds), min(seconds), max(seconds)) for name, seconds in sides.items()]
    table(["seconds", "median", "best", "worst"], rows)
    extra = rows[0][1] - rows[1][1]
    measured = f"{extra:+.2f} s (ratio {rows[0][1] / rows[1][1]:.2f})"
    verdict("Extra time of Load", measured, f"{MAX_EXTRA_SECONDS:+.1f} s at most", extra <= MAX_EXTRA_SECONDS)


if __name__ == "__main__":
    main()
