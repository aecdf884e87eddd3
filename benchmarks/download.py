"""How fast a file of 1 GiB comes from a hub on this machine, and what four connections gain where each is slow.

In turn: a whole job of ours, which verifies the hash and writes down what is there; curl and aria2c (`aria2c -x4`), if
they are installed; huggingface_hub. None of the three verifies anything. The hub runs in a process of its own, sends
from the disk's cache by `sendfile`, and says which share of the time is not ours: two cores for both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from figures import MB, session, table, verdict
from program import ROOT

sys.path.insert(0, str(ROOT))

REPO, FILE = "somebody/something", "model.safetensors"
SIZE, SMALLER = 1 << 30, 128 << 20
RATE = 4 << 20
ROUNDS = 5
LEAST_OF_CURL, LEAST_OF_THEIRS, LEAST_GAIN, MOST_GROWTH = 0.5, 1.0, 3.0, 100.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--part", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        name, *rest = args.part
        PARTS[name](*rest)
        return
    with session("Downloading from a hub on this machine"), tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        measure_speed(folder, args.rounds)
        measure_connections(folder)


def measure_speed(folder: Path, rounds: int) -> None:
    found: dict[str, list[float]] = {}
    growths = []
    with hub(folder / "big", SIZE) as url:
        for _ in range(rounds):
            for name, fetch in FETCHERS.items():
                if name in ("ours, verified", "huggingface_hub") or shutil.which(name):
                    seconds, growth = fetch(url, folder / "arrived")
                    found.setdefault(name, []).append(seconds)
                    growths += [growth] if name == "ours, verified" else []
                    shutil.rmtree(folder / "arrived", ignore_errors=True)
    ours = found["ours, verified"]
    rows = [
        (name, statistics.median(taken), SIZE / statistics.median(taken) / MB, ratio(taken, ours), spread(taken, ours))
        for name, taken in found.items()
    ]
    table(["1 GiB", "seconds", "MB/s", "ours to it", "from-to"], rows)
    ratios = {name: told for name, _, _, told, _ in rows}
    if "curl" in ratios:
        reached = ratios["curl"] >= LEAST_OF_CURL
        verdict("Ours to curl", f"{ratios['curl']:.2f} of its speed", f"{LEAST_OF_CURL}", reached)
    theirs = ratios["huggingface_hub"]
    verdict("Ours to huggingface_hub", f"{theirs:.2f} of its speed", f"{LEAST_OF_THEIRS}", theirs >= LEAST_OF_THEIRS)
    verdict("A job's memory", f"{max(growths):.0f} MB more", f"{MOST_GROWTH:.0f} MB", max(growths) < MOST_GROWTH)


def measure_connections(folder: Path) -> None:
    with hub(folder / "smaller", SMALLER, RATE) as url:
        taken = {}
        for connections in (1, 4):
            taken[connections], _ = ours(url, folder / "arrived", connections)
            shutil.rmtree(folder / "arrived")
    rows = [(f"{number} connections", seconds, SMALLER / seconds / MB) for number, seconds in taken.items()]
    table(["128 MiB at 4 MiB/s per connection", "seconds", "MB/s"], rows)
    gain = taken[1] / taken[4]
    verdict("Four connections to one", f"{gain:.2f} times as fast", f"{LEAST_GAIN}", gain >= LEAST_GAIN)


def ratio(theirs: list[float], ours: list[float]) -> float:
    """Of speeds, the median of the rounds."""
    return statistics.median(their / our for their, our in zip(theirs, ours, strict=True))


def spread(theirs: list[float], ours: list[float]) -> str:
    each = [their / our for their, our in zip(theirs, ours, strict=True)]
    return f"{min(each):.2f}-{max(each):.2f}"


# -- who fetches: seconds, and MB of memory more than before ----------------------------------------------------------


def ours(url: str, folder: Path, connections: int = 4) -> tuple[float, float]:
    return alone("ours", url, str(folder), str(connections))


def theirs(url: str, folder: Path) -> tuple[float, float]:
    os.environ |= {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "home")}
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    return alone("theirs", str(folder))


def curl(url: str, folder: Path) -> tuple[float, float]:
    folder.mkdir()
    return timed("curl", "-sfL", "-o", str(folder / FILE), f"{url}/{REPO}/resolve/main/{FILE}"), 0.0


def aria2c(url: str, folder: Path) -> tuple[float, float]:
    options = ["-q", "-x4", "-s4", "-k1M", "--file-allocation=falloc", "-d", str(folder), "-o", FILE]
    return timed("aria2c", *options, f"{url}/{REPO}/resolve/main/{FILE}"), 0.0


FETCHERS: dict[str, Callable[[str, Path], tuple[float, float]]] = {
    "ours, verified": ours,
    "curl": curl,
    "aria2c": aria2c,
    "huggingface_hub": theirs,
}


def timed(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def alone(*part: str) -> tuple[float, float]:
    """One of the functions below, in a process of its own whose start does not count."""
    command = [sys.executable, __file__, "--part", *part]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return told["seconds"], told["growth"]


def fetch_ours(url: str, folder: str, connections: str) -> None:
    from modules.downloads.context import TransferOptions
    from modules.downloads.manager import DownloadManager
    from modules.downloads.record import DownloadSpec
    from modules.hub.client import HubClient

    place = Path(folder)
    downloads = DownloadManager(
        {"model": place, "lora": place},
        lambda: [HubClient(url)],
        TransferOptions(connections=int(connections)),
        reserve=0,
    )

    def fetch() -> None:
        downloads.start(DownloadSpec(REPO, "main", "something"))
        while (state := downloads.snapshot()[0].state) not in ("done", "failed", "paused"):
            time.sleep(0.02)
        assert state == "done", downloads.snapshot()

    report(fetch)


def fetch_theirs(folder: str) -> None:
    from huggingface_hub import hf_hub_download

    report(lambda: hf_hub_download(REPO, FILE, local_dir=folder, token=False))


def report(fetch: Callable[[], object]) -> None:
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    began = time.perf_counter()
    fetch()
    seconds = time.perf_counter() - began
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / MB
    print(json.dumps({"seconds": seconds, "growth": growth}))


# -- the hub ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hub(file: Path, size: int, rate: int = 0) -> Iterator[str]:
    """The address of a hub that has noise of `size` bytes; `rate` is bytes a second for each connection, 0: all."""
    with file.open("wb") as noise:
        for _ in range(size >> 20):
            noise.write(os.urandom(1 << 20))
        os.fsync(noise.fileno())
    command = [sys.executable, __file__, "--part", "hub", str(file), str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()


def serve(file: str, rate: str) -> None:
    from tests.support.hub_server import HubServer

    with HubServer() as made:
        made.add(REPO, {FILE: Path(file)})
        if int(rate):
            made.fault(FILE, origin="cdn", rate=int(rate))
        print(made.url, flush=True)
        sys.stdin.read()


PARTS: dict[str, Callable[..., None]] = {"ours": fetch_ours, "theirs": fetch_theirs, "hub": serve}


if __name__ == "__main__":
    main()
