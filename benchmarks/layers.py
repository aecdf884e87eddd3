"""Decode speed at each layer between llama.cpp and a client, compared with llama-bench.

Engine: `step` called in a loop in a child process. Worker: the same through the worker's pipes, with this process
reading the events. API: what `decode.py` measures. All four alternate, for the 128 tokens after the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from decode import PROMPT, REPEATS, TOKENS, over_api
from figures import session, table
from peers import PROGRAMS, llama_bench, require
from program import MODEL, ROOT, Program, explain

sys.path.insert(0, str(ROOT))
from modules.core.events import Done, Event, Result, Text
from modules.loaders import generation_settings
from modules.loaders.availability import overlay_of
from modules.loaders.registry import LOADERS, find_loader
from modules.runtime.core_binding import CoreBinding
from modules.runtime.worker_process import WorkerProcess

ROUNDS = 5
OVERLAY = overlay_of(LOADERS["llama.cpp"])
PARAMS = generation_settings.resolve({"temperature": 0.0, "max_new_tokens": TOKENS + 1})


def main() -> None:
    if sys.argv[1:2] == ["--engine"]:
        print(measure_engine(json.loads(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--llama-bench", type=Path, default=PROGRAMS / "llama-bench")
    args = parser.parse_args()
    require(args.llama_bench)
    plan = explain(args.model)
    with (
        session(
            f"Decode by layers: {args.model.name}, {TOKENS} tokens, {REPEATS} answers per layer, {args.rounds} rounds"
        ),
        Program("--api", "--nowebui", "--model-dir", str(args.model.parent)) as program,
        closing(Worker(plan)) as worker,
    ):
        program.wait_for("/healthz")
        program.load(plan["model"])
        report(
            args.rounds,
            {
                "llama-bench": lambda: llama_bench(args.llama_bench, plan, TOKENS, REPEATS),
                "engine": lambda: engine_rate(plan),
                "worker": worker.rate,
                "API": lambda: over_api(program.port),
            },
        )


def rate(events: Iterable[Event]) -> float:
    """Return the tokens per second of one generation, without the first token."""
    arrivals = []
    for event in events:
        if isinstance(event, Text):
            arrivals.append(time.perf_counter())
        elif isinstance(event, Done):
            return (event.completion_tokens - 1) / (arrivals[-1] - arrivals[0])
    raise AssertionError("the generation has no final event")


class Worker:
    """A worker with the model loaded, whose threads have the cores as in the program."""

    def __init__(self, plan: Any) -> None:
        cores = CoreBinding()
        self._process = WorkerProcess(OVERLAY and OVERLAY.folder, waiting=cores.waiting)
        for event in self._process.events("load", **load_arguments(plan)):
            if isinstance(event, Result):
                break
        cores.bind(self._process)

    def rate(self) -> float:
        runs = [rate(self._process.events("generate", prompt=PROMPT, params=PARAMS)) for _ in range(REPEATS)]
        return statistics.median(runs)

    def close(self) -> None:
        self._process.close()


def load_arguments(plan: Any) -> dict[str, Any]:
    """Return the arguments of a worker's "load" for the output of `explain`."""
    options = {key: option["value"] for key, option in plan["options"].items()}
    path = plan["calls"]["llama_model_load_from_file"]["path_model"]
    return {"engine": find_loader(plan["loader"]).engine, "path": path, "options": options}


def engine_rate(plan: Any) -> float:
    """Run `measure_engine` in a child process."""
    command = [sys.executable, __file__, "--engine", json.dumps(plan)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def measure_engine(plan: Any) -> float:
    sys.path += [str(OVERLAY.folder)] if OVERLAY else []
    from modules.engines.llamacpp.engine import LlamaCpp

    arguments = load_arguments(plan)
    engine = LlamaCpp(Path(arguments["path"]), arguments["options"], lambda progress: None)

    def events() -> Iterable[Event]:
        engine.submit(1, engine.tokenize(PROMPT, PARAMS), PARAMS)
        while not engine.idle:
            yield from (event for _, event in engine.step())

    return statistics.median([rate(events()) for _ in range(REPEATS)])


def report(rounds: int, layers: Mapping[str, Callable[[], float]]) -> None:
    measured = [{name: measure() for name, measure in layers.items()} for _ in range(rounds)]
    baseline = next(iter(layers))
    rows = []
    for name in layers:
        rates = [round_rates[name] for round_rates in measured]
        ratios = [round_rates[name] / round_rates[baseline] for round_rates in measured]
        rows.append((name, statistics.median(rates), statistics.median(ratios), min(ratios), max(ratios)))
    table(["tokens/s", "median", "ratio", "lowest", "highest"], rows)


if __name__ == "__main__":
    main()
