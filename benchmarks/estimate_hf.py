"""Whether a model of Transformers takes the memory that was estimated: a worker's peak, less that of an empty one.

The peak is VmHWM from /proc, after a prompt of so many tokens. The empty worker has imported nothing: what torch and
transformers take is part of what is estimated. Each row is a worker of its own.
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

ALLOWED = 0.1
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
    parser.add_argument("--folder", type=Path, help="a model's; by default it is made from the demo model")
    parser.add_argument("--tokens", type=int, default=2048, help="of the prompt, in each row")
    parser.add_argument("--full", type=int, default=8192, help="of one more in bfloat16 and in 32 bits; 0 for none")
    args = parser.parse_args()
    folder = args.folder or transformers_folder(MODEL)
    runs = [(args.tokens, form) for form in OPTIONS]
    runs += [(args.full, form) for form in OPTIONS[:2]] if args.full else []
    with session(f"Memory estimated before loading, and taken: {folder.name} by Transformers"):
        empty = empty_peak(folder)
        shape = shape_of(folder)
        rows = [row(folder, n, form, empty, placed(shape, options(**form), tokens=n)[0]) for n, form in runs]
    print(f"An empty worker takes {empty / MB:.1f} MB.")
    table(["MB", "weights", "cache", "compute", "other", "estimated", "measured", "error"], rows)
    worst = max(abs(float(each[-1].rstrip("%"))) / 100 for each in rows)
    verdict("Error at worst", f"{worst:.1%}", f"{ALLOWED:.0%}", worst <= ALLOWED)


def row(folder: Path, tokens: int, form: dict[str, Any], empty: int, said: Estimate) -> tuple[Any, ...]:
    taken = filled_peak(folder, tokens, **form) - empty
    parts = [each / MB for each in (said.weights, said.cache, said.compute, said.other, said.total, taken)]
    return ", ".join([f"{tokens} tokens", *form]), *parts, f"{said.total / taken - 1:+.1%}"


if __name__ == "__main__":
    main()
