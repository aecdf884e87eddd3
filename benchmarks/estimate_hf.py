"""Estimated memory of a Transformers model, compared with a worker's peak minus that of an empty worker.

The peak is VmHWM from /proc after a prompt of the given length. The empty worker has imported nothing, because the
estimate includes the memory of torch and transformers. Each row is measured in a new worker.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from figures import MB, session, table, verdict
from program import MODEL, ROOT

sys.path.insert(0, str(ROOT))
from modules.engines.hf.memory_unquantized import placed
from modules.engines.memory import Estimate
from tests.engines.hf.test_memory_unquantized import empty_peak, filled_peak, options, shape_of
from tests.support.hf_folder import transformers_folder

MAX_ERROR = 0.1
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"bf16": True},
    {"load_in_8bit": True},
    {"load_in_4bit": True},
    {"load_in_4bit": True, "use_double_quant": True},
    {"bf16": True, "use_eager_attention": True},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="of a Transformers model; by default converted from the demo model")
    parser.add_argument("--tokens", type=int, default=2048, help="length of the prompt")
    parser.add_argument(
        "--full", type=int, default=8192, help="length of one more prompt for float32 and bfloat16; 0 for none"
    )
    args = parser.parse_args()
    folder = args.folder or transformers_folder(MODEL)
    runs = [(args.tokens, form) for form in OPTIONS]
    runs += [(args.full, form) for form in OPTIONS[:2]] if args.full else []
    with session(f"Estimated and measured memory with Transformers: {folder.name}"):
        empty = empty_peak(folder)
        shape = shape_of(folder)
        rows = [row(folder, n, form, empty, placed(shape, options(**form), tokens=n)[0]) for n, form in runs]
    print(f"An empty worker takes {empty / MB:.1f} MB.")
    table(["MB", "weights", "cache", "compute", "other", "estimated", "measured", "error"], rows)
    worst = max(abs(float(cells[-1].rstrip("%"))) / 100 for cells in rows)
    verdict("Largest error", f"{worst:.1%}", f"{MAX_ERROR:.0%}", worst <= MAX_ERROR)


def row(folder: Path, tokens: int, form: dict[str, Any], empty: int, estimated: Estimate) -> tuple[Any, ...]:
    measured = filled_peak(folder, tokens, **form) - empty
    parts = (estimated.weights, estimated.cache, estimated.compute, estimated.other, estimated.total, measured)
    name = ", ".join([f"{tokens} tokens", *form])
    return name, *(part / MB for part in parts), f"{estimated.total / measured - 1:+.1%}"


if __name__ == "__main__":
    main()
