"""Differences that the price of an option finds between a value and itself, which are all chance.

Every comparison is `--price KEY=A,A`. An interval of 95 % leaves out zero once in 20 times for each figure: of 20
comparisons, at most 2 may differ in the same figure. The perplexity and the divergence must not differ at all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import session, table, verdict
from program import MODEL

ROOT = Path(__file__).resolve().parent.parent
COMPARISONS, PAIRS, MAX_DIFFERENCES = 20, 5, 2
MAX_DIVERGENCE = 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--loader", default="llama.cpp")
    parser.add_argument("--price", default="n_batch=512,512", help="an option with the same value twice")
    parser.add_argument("--comparisons", type=int, default=COMPARISONS)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--quick", action="store_true", help="4 comparisons of 3 pairs; at most 1 difference")
    args = parser.parse_args()
    count, pairs = (4, 3) if args.quick else (args.comparisons, args.pairs)
    limit = 1 if args.quick else MAX_DIFFERENCES
    with session(f"A against A: {args.model.name}, {args.price}, {count} comparisons of {pairs} pairs"):
        results = [measure(args.model, args.loader, args.price, pairs) for _ in range(count)]
    report(results, limit)


def measure(model: Path, loader: str, price: str, pairs: int) -> dict[str, dict[str, dict[str, object]]]:
    """Return the JSON object of one comparison, which is kept in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / model.name).symlink_to(model.resolve())
        flags = ["--model-dir", folder, "--model", model.name, "--loader", loader]
        command = [sys.executable, "server.py", *flags, "--price", price, "--pairs", str(pairs), "--json"]
        ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    result: dict[str, dict[str, dict[str, object]]] = json.loads(ran.stdout)
    return result


def report(results: list[dict[str, dict[str, dict[str, object]]]], limit: int) -> None:
    rows: list[tuple[str, float, float, float]] = []
    for metric in results[0]["effects"]:
        effects = [result["effects"][metric] for result in results]
        changes = [float(effect["percent"]["mean"]) for effect in effects]  # type: ignore[index, call-overload]
        seen = sum(bool(effect["seen"]) for effect in effects)
        rows.append((metric, seen, min(changes), max(changes)))
    table(["figure", "differences", "lowest, %", "highest, %"], rows)
    divergence = max(float(result["kl"]["mean"]) for result in results if result["kl"])  # type: ignore[arg-type]
    for metric, seen, _, _ in rows:
        allowed = 0 if metric == "perplexity" else limit
        verdict(f"Differences in {metric}", f"{seen:.0f}", f"{allowed} at most", seen <= allowed)
    verdict("KL divergence", f"{divergence:.1e}", f"{MAX_DIVERGENCE:.0e} at most", abs(divergence) <= MAX_DIVERGENCE)


if __name__ == "__main__":
    main()
