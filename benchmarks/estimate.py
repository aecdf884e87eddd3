"""Whether a model takes the memory that was estimated: a worker's peak with its context full, less an idle worker's.

The peak is VmHWM from /proc. The idle worker has imported llama.cpp and loaded nothing: its memory is the same for
every model, so it says nothing of any. Each row is a worker of its own.
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

ALLOWED = 0.1
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"parallel": 4},
    {"parallel": 8},
    {"no_mmap": True},
    {"cache_8bit": True},
    {"cache_4bit": True},
    {"flash_attn": False},
)
ONCE: tuple[dict[str, Any], ...] = (  # what takes long, or matters little
    {"n_ctx": 2048, "n_batch": 64},
    {"n_ctx": 2048, "n_batch": 2048},
    {"n_ctx": 4096, "flash_attn": False},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--n-ctx", type=int, nargs="+", default=[512, 2048], help="a full 8192 takes about a minute")
    parser.add_argument("--only", type=int, default=len(OPTIONS), help="so many of the combinations of options")
    args = parser.parse_args()
    header = read_header(args.model)
    forms = [{"n_ctx": n_ctx, **form} for n_ctx in args.n_ctx for form in OPTIONS[: args.only]]
    forms += ONCE if args.only == len(OPTIONS) else ()
    with session(f"Memory estimated before loading, and taken: {args.model.name}"):
        idle = idle_peak(args.model)
        rows = [row(args.model, form, idle, estimate(header, options(**form))) for form in forms]
    print(f"An idle worker takes {idle / MB:.1f} MB.")
    table(["MB", "weights", "cache", "compute", "other", "estimated", "measured", "error"], rows)
    worst = max(abs(float(each[-1].rstrip("%"))) / 100 for each in rows)
    verdict("Error at worst", f"{worst:.1%}", f"{ALLOWED:.0%}", worst <= ALLOWED)


def row(model: Path, form: dict[str, Any], idle: int, said: Estimate) -> tuple[Any, ...]:
    taken = filled_peak(model, **{"parallel": 1, **form}) - idle
    parts = [each / MB for each in (said.weights, said.cache, said.compute, said.other, said.total, taken)]
    name = ", ".join(key if value is True else f"{key} {value}" for key, value in form.items())
    return name.replace("flash_attn False", "no flash_attn"), *parts, f"{said.total / taken - 1:+.1%}"


if __name__ == "__main__":
    main()
