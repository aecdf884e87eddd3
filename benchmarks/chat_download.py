"""How fast an answer streams while a file is being downloaded, against the same answer with the download paused.

A hub on this machine sends 20 MiB a second over four connections; the program verifies and writes what comes. Rounds
of both in turn over one running server, so that a machine that slows down slows both; what counts is the ratio. The
download has to have moved in each round with it, and not in those without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from decode import over_api
from download import FILE, REPO, hub
from figures import MB, session, table, verdict
from program import MODEL, Program

FLOOR = 0.9
ROUNDS = 9
CONNECTIONS, RATE = 4, 5 << 20  # 20 MiB a second together
SIZE = 4 << 30
JOBS = "/v1/internal/download"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    with session(f"Decode while downloading at 20 MiB/s, {args.rounds} rounds"), tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        models = folder / "models"
        models.mkdir()
        (models / MODEL.name).symlink_to(MODEL)
        flags = ("--api", "--nowebui", "--model-dir", str(models))
        with hub(folder / "big", SIZE, RATE) as url, Program(*flags, "--hf-endpoint", url) as program:
            program.wait_for("/healthz")
            program.load(MODEL.name)
            job = program.post(JOBS, {"repo": REPO, "files": [FILE]})["id"]
            over_api(program.port)  # the first one fills caches
            report([(beside(program, job, True), beside(program, job, False)) for _ in range(args.rounds)])
            program.post(f"{JOBS}/cancel", {"id": job})


def beside(program: Program, job: str, wanted: bool) -> tuple[float, float]:
    """Tokens a second and, while they were written, the bytes a second that came."""
    program.post(f"{JOBS}/{'resume' if wanted else 'pause'}", {"id": job})
    while (seen := view(program, job))["state"] != ("downloading" if wanted else "paused"):
        if seen["state"] == "failed":
            sys.exit(f"The download failed: {seen}")
        time.sleep(0.05)
    time.sleep(1)
    began, before = time.perf_counter(), view(program, job)["done"]
    rate = over_api(program.port)
    return rate, (view(program, job)["done"] - before) / (time.perf_counter() - began)


def view(program: Program, job: str) -> dict[str, Any]:
    with urllib.request.urlopen(program.url + JOBS) as answer:
        return next(each for each in json.load(answer)["downloads"] if each["id"] == job)


def report(rounds: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    ratios = [beside[0] / alone[0] for beside, alone in rounds]
    rows = [
        (name, *(statistics.median(each[side][number] for each in rounds) / unit for number, unit in ((0, 1), (1, MB))))
        for side, name in enumerate(("downloading", "paused"))
    ]
    table(["", "tokens a second", "MB/s downloaded"], rows)
    ratio = statistics.median(ratios)
    told = f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    verdict("Downloading to paused", told, f"{FLOOR} at least", ratio >= FLOOR)


if __name__ == "__main__":
    main()
