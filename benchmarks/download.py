"""Speed of downloading 1 GiB from a hub on this machine, and the gain of four connections when each one is slow.

Measured alternately: a complete download job of ours, which verifies the hash and records its progress; curl and aria2c
(`aria2c -x4`), if they are installed; huggingface_hub. The latter three verify nothing. The hub runs in another process
and sends from the page cache with `sendfile`; both processes share the same cores.
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
MIN_CURL_RATIO, MIN_HUGGINGFACE_RATIO, MIN_GAIN, MAX_GROWTH_MB = 0.5, 1.0, 3.0, 100.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--part", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        name, *arguments = args.part
        PARTS[name](*arguments)
        return
    with session("Downloading from a hub on this machine"), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measure_speed(folder, args.rounds)
        measure_connections(folder)


def measure_speed(folder: Path, rounds: int) -> None:
    times: dict[str, list[float]] = {}
    growths = []
    with hub(folder / "big", SIZE) as url:
        for _ in range(rounds):
            for name, fetch in FETCHERS.items():
                if name in ("ours, verified", "huggingface_hub") or shutil.which(name):
                    seconds, growth = fetch(url, folder / "target")
                    times.setdefault(name, []).append(seconds)
                    growths += [growth] if name == "ours, verified" else []
                    shutil.rmtree(folder / "target", ignore_errors=True)
    ours = times["ours, verified"]
    rows, median_ratios = [], {}
    for name, theirs in times.items():
        ratios = [their_time / our_time for their_time, our_time in zip(theirs, ours, strict=True)]
        seconds, median_ratios[name] = statistics.median(theirs), statistics.median(ratios)
        rows.append((name, seconds, SIZE / seconds / MB, median_ratios[name], f"{min(ratios):.2f}-{max(ratios):.2f}"))
    table(["1 GiB", "seconds", "MB/s", "our speed relative to it", "range"], rows)
    for name, limit in (("curl", MIN_CURL_RATIO), ("huggingface_hub", MIN_HUGGINGFACE_RATIO)):
        if name in median_ratios:
            ratio = median_ratios[name]
            verdict(f"Speed relative to {name}", f"{ratio:.2f}", f"{limit} at least", ratio >= limit)
    growth = max(growths)
    verdict("Memory of a job", f"{growth:.0f} MB", f"{MAX_GROWTH_MB:.0f} MB at most", growth < MAX_GROWTH_MB)


def measure_connections(folder: Path) -> None:
    with hub(folder / "smaller", SMALLER, RATE) as url:
        times = {}
        for connections in (1, 4):
            times[connections], _ = ours(url, folder / "target", connections)
            shutil.rmtree(folder / "target")
    rows = [(f"{number} connections", seconds, SMALLER / seconds / MB) for number, seconds in times.items()]
    table(["128 MiB at 4 MiB/s per connection", "seconds", "MB/s"], rows)
    gain = times[1] / times[4]
    verdict("Four connections relative to one", f"{gain:.2f} times", f"{MIN_GAIN} times at least", gain >= MIN_GAIN)


# -- downloads: each function returns seconds and the growth of memory in MB -------------------------------------------


def ours(url: str, folder: Path, connections: int = 4) -> tuple[float, float]:
    return run_part("ours", url, str(folder), str(connections))


def theirs(url: str, folder: Path) -> tuple[float, float]:
    os.environ |= {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "home")}
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    return run_part("theirs", str(folder))


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


def run_part(*part: str) -> tuple[float, float]:
    """Run one of PARTS in a child process, whose start is not counted."""
    command = [sys.executable, __file__, "--part", *part]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return result["seconds"], result["growth"]


def fetch_ours(url: str, folder: str, connections: str) -> None:
    from modules.downloads.context import TransferOptions
    from modules.downloads.manager import DownloadManager
    from modules.downloads.record import DownloadSpec
    from modules.hub.client import HubClient

    target = Path(folder)
    downloads = DownloadManager(
        {"model": target, "lora": target},
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
    """Serve `size` random bytes from a hub in a child process; yield its URL.

    `rate` limits each connection to so many bytes per second; 0 means no limit.
    """
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

    with HubServer() as server:
        server.add(REPO, {FILE: Path(file)})
        if int(rate):
            server.fault(FILE, origin="cdn", rate=int(rate))
        print(server.url, flush=True)
        sys.stdin.read()


PARTS: dict[str, Callable[..., None]] = {"ours": fetch_ours, "theirs": fetch_theirs, "hub": serve}


if __name__ == "__main__":
    main()
