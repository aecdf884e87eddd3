"""Where decode time goes between llama.cpp and a client: each layer's tokens a second, against llama-bench.

The engine: `step` called in a loop, in a process of its own. The worker: the same behind its pipes, its events read by
this process. The API: what `decode.py` measures. Rounds of all four, for the 128 tokens after the first.
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
from modules.loaders.registry import find_loader
from modules.runtime.worker_process import WorkerProcess

ROUNDS = 5
PARAMS = generation_settings.resolve({"temperature": 0.0, "max_new_tokens": TOKENS + 1})


def main() -> None:
    if sys.argv[1:2] == ["--engine-alone"]:
        print(engine_alone(json.loads(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--llama-bench", type=Path, default=PROGRAMS / "llama-bench")
    args = parser.parse_args()
    require(args.llama_bench)
    told = explain(args.model)
    with (
        session(f"Decode by layers: {args.model.name}, {TOKENS} tokens, {REPEATS} answers each, {args.rounds} rounds"),
        Program("--api", "--nowebui", "--model-dir", str(args.model.parent)) as program,
        closing(Worker(told)) as worker,
    ):
        program.wait_for("/healthz")
        program.load(told["model"])
        report(
            args.rounds,
            {
                "llama-bench": lambda: llama_bench(args.llama_bench, told, TOKENS, REPEATS),
                "engine alone": lambda: in_child(told),
                "worker": worker.rate,
                "API": lambda: over_api(program.port),
            },
        )


def rate(events: Iterable[Event]) -> float:
    """Tokens a second of one generation, the first token not counted."""
    arrivals = []
    for event in events:
        if isinstance(event, Text):
            arrivals.append(time.perf_counter())
        elif isinstance(event, Done):
            return (event.completion_tokens - 1) / (arrivals[-1] - arrivals[0])
    raise AssertionError("a generation without an end")


class Worker:
    """A worker with the model loaded."""

    def __init__(self, told: Any) -> None:
        self._process = WorkerProcess()
        for event in self._process.events("load", **load_arguments(told)):
            if isinstance(event, Result):
                break

    def rate(self) -> float:
        runs = [rate(self._process.events("generate", prompt=PROMPT, params=PARAMS)) for _ in range(REPEATS)]
        return statistics.median(runs)

    def close(self) -> None:
        self._process.close()


def load_arguments(told: Any) -> dict[str, Any]:
    options = {key: option["value"] for key, option in told["options"].items()}
    path = told["calls"]["llama_model_load_from_file"]["path_model"]
    return {"engine": find_loader(told["loader"]).engine, "path": path, "options": options}


def in_child(told: Any) -> float:
    words = [sys.executable, __file__, "--engine-alone", json.dumps(told)]
    return float(subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def engine_alone(told: Any) -> float:
    from modules.engines.llamacpp.engine import LlamaCpp

    arguments = load_arguments(told)
    engine = LlamaCpp(Path(arguments["path"]), arguments["options"], lambda progress: None)

    def events() -> Iterable[Event]:
        engine.submit(1, engine.tokenize(PROMPT, PARAMS), PARAMS)
        while not engine.idle:
            yield from (event for _, event in engine.step())

    return statistics.median([rate(events()) for _ in range(REPEATS)])


def report(rounds: int, layers: Mapping[str, Callable[[], float]]) -> None:
    measured = [{name: measure() for name, measure in layers.items()} for _ in range(rounds)]
    peer = next(iter(layers))
    rows = []
    for name in layers:
        rates = [each[name] for each in measured]
        ratios = [each[name] / each[peer] for each in measured]
        rows.append((name, statistics.median(rates), statistics.median(ratios), min(ratios), max(ratios)))
    table(["tokens a second", "median", "ratio", "lowest", "highest"], rows)


if __name__ == "__main__":
    main()
