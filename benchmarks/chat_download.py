"""Streaming speed of an answer while a file is being downloaded, compared with the download paused.

A hub on this machine sends 20 MiB/s over four connections; the program verifies and writes the data. The rounds
alternate on one running server, so that a machine that slows down slows both sides; the ratio is what counts. The
downloaded bytes are shown as well: they must have grown in one half of the rounds only.
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

MIN_RATIO = 0.9
ROUNDS = 9
RATE = 5 << 20  # bytes per second and connection: 20 MiB/s over the four connections
SIZE = 4 << 30
JOBS = "/v1/internal/download"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    with (
        session(f"Decode while downloading at 20 MiB/s, {args.rounds} rounds"),
        tempfile.TemporaryDirectory() as temporary,
    ):
        folder = Path(temporary)
        models = folder / "models"
        models.mkdir()
        (models / MODEL.name).symlink_to(MODEL)
        flags = ("--api", "--nowebui", "--model-dir", str(models))
        with hub(folder / "big", SIZE, RATE) as url, Program(*flags, "--hf-endpoint", url) as program:
            program.wait_for("/healthz")
            program.load(MODEL.name)
            job = program.post(JOBS, {"repo": REPO, "files": [FILE]})["id"]
            over_api(program.port)  # warm up
            report([(measure(program, job, True), measure(program, job, False)) for _ in range(args.rounds)])
            program.post(f"{JOBS}/cancel", {"id": job})


def measure(program: Program, job: str, downloading: bool) -> tuple[float, float]:
    """Return the tokens per second of an answer, and the bytes per second downloaded meanwhile."""
    program.post(f"{JOBS}/{'resume' if downloading else 'pause'}", {"id": job})
    while (record := job_record(program, job))["state"] != ("downloading" if downloading else "paused"):
        if record["state"] == "failed":
            sys.exit(f"The download failed: {record}")
        time.sleep(0.05)
    time.sleep(1)
    began, before = time.perf_counter(), job_record(program, job)["done"]
    rate = over_api(program.port)
    return rate, (job_record(program, job)["done"] - before) / (time.perf_counter() - began)


def job_record(program: Program, job: str) -> dict[str, Any]:
    with urllib.request.urlopen(program.url + JOBS) as response:
        return next(record for record in json.load(response)["downloads"] if record["id"] == job)


def report(rounds: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    rows = []
    for side, name in enumerate(("downloading", "paused")):
        rates, downloaded = zip(*(pair[side] for pair in rounds), strict=True)
        rows.append((name, statistics.median(rates), statistics.median(downloaded) / MB))
    table(["", "tokens/s", "MB/s downloaded"], rows)
    ratios = [downloading[0] / paused[0] for downloading, paused in rounds]
    ratio = statistics.median(ratios)
    measured = f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    verdict("Downloading relative to paused", measured, f"{MIN_RATIO} at least", ratio >= MIN_RATIO)


if __name__ == "__main__":
    main()
