"""Estimated memory of a llama.cpp model, compared with the peak of a worker with a full context minus an idle worker's.

The peak is VmHWM from /proc. The idle worker has imported llama.cpp but loaded nothing; its memory does not depend on
the model and is therefore subtracted. Each row is measured in a new worker.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from figures import MB, session, table, verdict
from program import MODEL, ROOT

sys.path.insert(0, str(ROOT))
from modules.engines.llamacpp.memory import estimate
from modules.engines.memory import Estimate
from modules.formats.gguf_header import read_header
from tests.engines.llamacpp.test_memory import filled_peak, idle_peak, options

MAX_ERROR = 0.1
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"parallel": 4},
    {"parallel": 8, "kv_unified": "off"},
    {"no_mmap": True},
    {"cache_8bit": True},
    {"cache_4bit": True},
    {"flash_attn": False},
)
SINGLE_RUNS: tuple[dict[str, Any], ...] = (  # slow or of minor importance: not repeated for each --n-ctx
    {"n_ctx": 2048, "n_batch": 64},
    {"n_ctx": 2048, "n_batch": 2048},
    {"n_ctx": 4096, "flash_attn": False},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--n-ctx", type=int, nargs="+", default=[512, 2048], help="a full 8192 takes about a minute")
    parser.add_argument("--only", type=int, default=len(OPTIONS), help="number of option combinations to measure")
    args = parser.parse_args()
    header = read_header(args.model)
    forms = [{"n_ctx": n_ctx, **form} for n_ctx in args.n_ctx for form in OPTIONS[: args.only]]
    forms += SINGLE_RUNS if args.only == len(OPTIONS) else ()
    with session(f"Estimated and measured memory: {args.model.name}"):
        idle = idle_peak(args.model)
        rows = [row(args.model, form, idle, estimate(header, options(**form))) for form in forms]
    print(f"An idle worker takes {idle / MB:.1f} MB.")
    table(["MB", "weights", "cache", "compute", "other", "estimated", "measured", "error"], rows)
    worst = max(abs(float(cells[-1].rstrip("%"))) / 100 for cells in rows)
    verdict("Largest error", f"{worst:.1%}", f"{MAX_ERROR:.0%}", worst <= MAX_ERROR)


def row(model: Path, form: dict[str, Any], idle: int, estimated: Estimate) -> tuple[Any, ...]:
    measured = filled_peak(model, **{"parallel": 1, **form}) - idle
    parts = (estimated.weights, estimated.cache, estimated.compute, estimated.other, estimated.total, measured)
    name = ", ".join(key if value is True else f"{key} {value}" for key, value in form.items())
    return (
        name.replace("flash_attn False", "no flash_attn"),
        *(part / MB for part in parts),
        f"{estimated.total / measured - 1:+.1%}",
    )


if __name__ == "__main__":
    main()
