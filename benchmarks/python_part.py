"""Python's time per token, at the 64th and the 1,024th token: the time of a step without that of `llama_decode`.

With DRY and penalties it includes llama.cpp's own samplers, which search all previous tokens (here up to 1,024). That
case is shown but not compared with the limit.
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
from modules.core.events import Text, text_item, to_line
from modules.loaders import generation_settings

POSITIONS = (64, 1024)
WINDOW = 32  # steps before and after a position that count for it
RUNS = 3
MAX_RATIO = 1.1
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
    plan = explain(args.model)
    rows = []
    with session(f"Python's time per token: {args.model.name}, {RUNS} runs"):
        for name, params in CASES.items():
            runs = [child(plan, params) for _ in range(RUNS)]
            early, late = (statistics.median(time_at(run, position) for run in runs) for position in POSITIONS)
            rows.append((name, early * 1000, late * 1000, late / early))
    table(["milliseconds", *(f"at token {position}" for position in POSITIONS), "ratio"], rows)
    worst = max(row[3] for row in rows[:-1])
    verdict("Largest ratio", f"{worst:.2f}", f"{MAX_RATIO} at most", worst <= MAX_RATIO)


def child(plan: Any, params: dict[str, Any]) -> list[float]:
    """Run `steps` in a new process, so that runs do not share threads or memory."""
    command = [sys.executable, __file__, "--child", json.dumps(load_arguments(plan) | {"params": params})]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    seconds: list[float] = json.loads(run.stdout)
    return seconds


def steps(request: dict[str, Any]) -> list[float]:
    """Return the seconds of each step without those of `llama_decode`."""
    from modules.engines.llamacpp.engine import LlamaCpp

    engine = LlamaCpp(Path(request["path"]), request["options"], lambda progress: None)
    length = max(POSITIONS) + WINDOW
    params = generation_settings.resolve({"max_new_tokens": length, "ban_eos_token": True, **request["params"]})
    engine.submit(1, engine.tokenize(PROMPT, params), params)
    seconds = []
    while not engine.idle:
        began, decoding = time.perf_counter(), engine.model.seconds_decoding
        for call, event in engine.step():
            text_item(call, event) if isinstance(event, Text) else to_line(call, event)
        seconds.append(time.perf_counter() - began - (engine.model.seconds_decoding - decoding))
    return seconds


def time_at(seconds: list[float], position: int) -> float:
    return statistics.median(seconds[position - WINDOW : position + WINDOW])


if __name__ == "__main__":
    main()
