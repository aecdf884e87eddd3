"""What Python costs per token, at the 64th and at the 1,024th: a step's time less the time spent in `llama_decode`.

With DRY and penalties that includes llama.cpp's own samplers, which look back over ever more tokens (here up to 1,024);
that case is shown, and does not count.
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
from layers import load_arguments
from program import MODEL, ROOT, explain

sys.path.insert(0, str(ROOT))
from modules.core.events import to_line
from modules.loaders import generation_settings

PLACES = (64, 1024)
AROUND = 32
RUNS = 3
ALLOWED = 1.1
PROMPT = "Once upon a time, in a small village by the sea, there lived"
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "the page's defaults": {"seed": 1},
    "all penalties": {"seed": 1, "repetition_penalty": 1.1, "dry_multiplier": 0.8, "top_p": 0.9},
}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(steps(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    args = parser.parse_args()
    told = explain(args.model)
    rows = []
    with session(f"Python's part of a token: {args.model.name}, {RUNS} runs"):
        for name, params in CASES.items():
            runs = [child(told, params) for _ in range(RUNS)]
            early, late = (statistics.median(part(run, place) for run in runs) for place in PLACES)
            rows.append((name, early * 1000, late * 1000, late / early))
    table(["milliseconds", *(f"at {place}" for place in PLACES), "ratio"], rows)
    worst = max(row[3] for row in rows[:-1])
    verdict("Growth", f"{worst:.2f}", f"{ALLOWED} at most", worst <= ALLOWED)


def child(told: Any, params: dict[str, Any]) -> list[float]:
    """In a process of its own, for its threads and its memory."""
    words = [sys.executable, __file__, "--child", json.dumps(load_arguments(told) | {"params": params})]
    run = subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    seconds: list[float] = json.loads(run.stdout)
    return seconds


def steps(asked: dict[str, Any]) -> list[float]:
    """Seconds outside of `llama_decode`, step by step."""
    from modules.engines.llamacpp.engine import LlamaCpp

    engine = LlamaCpp(Path(asked["path"]), asked["options"], lambda progress: None)
    wishes = {"max_new_tokens": max(PLACES) + AROUND, "ban_eos_token": True, **asked["params"]}
    params = generation_settings.resolve(wishes)
    engine.submit(1, engine.tokenize(PROMPT, params), params)
    seconds = []
    while not engine.idle:
        began, decoding = time.perf_counter(), engine.model.seconds_decoding
        for call, event in engine.step():
            to_line(call, event)
        seconds.append(time.perf_counter() - began - (engine.model.seconds_decoding - decoding))
    return seconds


def part(seconds: list[float], place: int) -> float:
    return statistics.median(seconds[place - AROUND : place + AROUND])


if __name__ == "__main__":
    main()
