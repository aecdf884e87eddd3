"""Time to list a folder of 500 models: the first time, when all headers are read, then again, and after a restart.
Also the time to find one model by name.

Half of them are the demo model under other names, half are folders of weights; a tenth is in subfolders.
Last, how long a list waits for a folder of 10,000 models with a link to the whole disk, none of which was read before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from figures import session, table, verdict
from program import MODEL, ROOT

sys.path.insert(0, str(ROOT))
from modules.catalog.background_scan import LIST_SECONDS
from modules.catalog.catalog import Catalog
from tests.support.checkpoint_files import checkpoint

MODELS = 500
ALLOWED_SECONDS = 1.0
REPEATS = 9
MANY = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    args = parser.parse_args()
    with session(f"A folder of {MODELS} models"), tempfile.TemporaryDirectory() as temporary:
        folder, cache = Path(temporary) / "models", Path(temporary) / "cache" / "catalog.json"
        folder.mkdir()
        fill(folder, args.model)
        catalog = Catalog(folder, cache)
        first = time_listing(catalog)
        again = [time_listing(catalog) for _ in range(REPEATS)]
        restarted = [time_listing(Catalog(folder, cache)) for _ in range(REPEATS)]
        names = [record.name for record in catalog.models()]
        cold = [time_lookup(Catalog(folder, cache), name) for name in names[:: MODELS // REPEATS]]
        warm = [time_lookup(catalog, name) for name in names]
        cache_bytes = cache.stat().st_size
        (folder / "new.gguf").symlink_to(args.model)
        new = time_listing(catalog, MODELS + 1)
    rows = [
        ("list all, first time", first),
        ("list all, again", statistics.median(again)),
        ("list all, one new model", new),
        ("list all, after a restart", statistics.median(restarted)),
        ("find one by name", statistics.median(warm)),
        ("find one, after a restart", statistics.median(cold)),
    ]
    table(["", "seconds (median)"], [(name, f"{seconds:.4f}") for name, seconds in rows])
    print(f"The cache file has {cache_bytes / 1e6:.1f} MB.")
    with tempfile.TemporaryDirectory() as temporary:
        waits = time_vast_folder(Path(temporary), args.model)
    slowest = max(*again, *restarted)
    longest = max(waits)
    verdict(
        f"Listing {MANY:,} unread models and a disk",
        f"{longest:.2f} s",
        f"{ALLOWED_SECONDS} s",
        longest <= ALLOWED_SECONDS,
    )
    verdict("Listing from the cache", f"{slowest:.2f} s at worst", f"{ALLOWED_SECONDS} s", slowest <= ALLOWED_SECONDS)


def fill(folder: Path, model: Path) -> None:
    for number in range(MODELS):
        parent = folder / f"author {number % 10}" if number % 10 == 0 else folder
        parent.mkdir(exist_ok=True)
        if number % 2:
            checkpoint(parent / f"weights-{number}-7B", tokenizer_config=json.loads('{"chat_template": "x"}'))
        else:
            (parent / f"model-{number}-7B.Q4_1.gguf").symlink_to(model)


def time_vast_folder(folder: Path, model: Path) -> list[float]:
    """Return how long each of several lists waits, as a page asks for them."""
    (folder / "disk").symlink_to("/")
    for number in range(MANY):
        (folder / f"model-{number}.gguf").symlink_to(model)
    catalog, waits = Catalog(folder), []
    for _ in range(REPEATS):
        began = time.perf_counter()
        catalog.models(LIST_SECONDS)
        waits.append(time.perf_counter() - began)
    return waits


def time_listing(catalog: Catalog, count: int = MODELS) -> float:
    began = time.perf_counter()
    records = catalog.models()
    seconds = time.perf_counter() - began
    assert len(records) == count, len(records)
    return seconds


def time_lookup(catalog: Catalog, name: str) -> float:
    began = time.perf_counter()
    record = catalog.find(name)
    seconds = time.perf_counter() - began
    assert record.name == name
    return seconds


if __name__ == "__main__":
    main()
