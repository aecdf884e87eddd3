"""How long a folder of 500 models takes to be listed: the first time, when every header is read, after that, and after
a restart; and how long one model takes to be found by its name.

Half of them are the demo model under other names, half are folders of weights; a tenth of all lies in sub-folders.
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
from modules.catalog.catalog import Catalog
from tests.support.checkpoint_files import checkpoint

MODELS = 500
ALLOWED_SECONDS = 1.0
REPEATS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    args = parser.parse_args()
    with session(f"A folder of {MODELS} models"), tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place) / "models", Path(place) / "cache" / "catalog.json"
        folder.mkdir()
        fill(folder, args.model)
        catalog = Catalog(folder, cache)
        first = seconds(catalog)
        again = [seconds(catalog) for _ in range(REPEATS)]
        restarted = [seconds(Catalog(folder, cache)) for _ in range(REPEATS)]
        names = [record.name for record in catalog.models()]
        cold = [lookup(Catalog(folder, cache), name) for name in names[:: MODELS // REPEATS]]
        warm = [lookup(catalog, name) for name in names]
        kept = cache.stat().st_size
        (folder / "new.gguf").symlink_to(args.model)
        new = seconds(catalog, MODELS + 1)
    rows = [
        ("all, the first time", first),
        ("all, again", statistics.median(again)),
        ("all, with a new one", new),
        ("all, after a restart", statistics.median(restarted)),
        ("one by its name", statistics.median(warm)),
        ("one, after a restart", statistics.median(cold)),
    ]
    table(["seconds (median)", "to find"], [(name, f"{taken:.4f}") for name, taken in rows])
    print(f"The cache has {kept / 1e6:.1f} MB.")
    slowest = max(*again, *restarted)
    verdict("Once cached", f"{slowest:.2f} s at worst", f"{ALLOWED_SECONDS} s", slowest <= ALLOWED_SECONDS)


def fill(folder: Path, model: Path) -> None:
    for number in range(MODELS):
        place = folder / f"author {number % 10}" if number % 10 == 0 else folder
        place.mkdir(exist_ok=True)
        if number % 2:
            checkpoint(place / f"weights-{number}-7B", tokenizer_config=json.loads('{"chat_template": "x"}'))
        else:
            (place / f"model-{number}-7B.Q4_1.gguf").symlink_to(model)


def seconds(catalog: Catalog, count: int = MODELS) -> float:
    began = time.perf_counter()
    found = catalog.models()
    taken = time.perf_counter() - began
    assert len(found) == count, len(found)
    return taken


def lookup(catalog: Catalog, name: str) -> float:
    began = time.perf_counter()
    found = catalog.find(name)
    taken = time.perf_counter() - began
    assert found.name == name
    return taken


if __name__ == "__main__":
    main()
