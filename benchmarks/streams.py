"""Hundreds of streams at once through this program, LiteLLM's proxy and nginx, from an engine of numbered tokens.

The engine (numbered_engine.py) and the clients (streams_client.py) are processes of their own, and the streams begin at
the same moment. Each client checks that its text has every number once and in order. Processor time is that of all
processes of a side while the streams run; memory is their PSS. `crowd` is this program with an engine that writes the
numbers itself, without HTTP. `page` is `ours` with the page, in which a browser sends one message after the other
meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streams_sides
from figures import session, table, verdict
from program import ROOT, memory
from streams_page import PageChats
from streams_sides import SIDES, Side

STREAMS, TOKENS, RATE = 500, 200, 20.0
SHORT_STREAMS, SHORT_TOKENS = 50, 60
MAX_CPU, MAX_MEMORY_KB, MAX_DELAY, MAX_HEALTH, MAX_CHAT = 60.0, 150.0, 0.5, 0.2, 1.0
MAX_GROWTH_MB, MIN_SPEED, MIN_ADVANTAGE = 10.0, 0.95, 3.0
BURST_TOKENS = 10
HEALTH_PAUSE, MEMORY_PAUSE, SETTLE_SECONDS = 0.05, 0.5, 3.0
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Watch:
    """Observations of a side while the streams ran: seconds of its health checks, and its highest memory in bytes."""

    health: list[float] = field(default_factory=list)
    peak: int = 0


@dataclass(frozen=True)
class Run:
    """The figures of one side; `tally` is what the clients printed. Times in seconds, memory in bytes.

    `again` is the memory after a second burst of as many streams: what allocators keep of the first one is used again,
    what leaks is not. `chats` are the seconds until the chats of the page began.
    """

    name: str
    tally: dict[str, Any]
    cpu: float
    before: int
    peak: int
    after: int
    again: int
    health: list[float]
    chats: list[float]

    @property
    def cpu_per_token(self) -> float:
        """Microseconds."""
        return self.cpu * 1e6 / max(self.tally["tokens"], 1)

    def memory_per_stream(self, streams: int) -> float:
        """Kilobytes."""
        return (self.peak - self.before) / streams / 1000

    @property
    def tokens_per_second(self) -> float:
        return float(self.tally["tokens"] / self.tally["seconds"])

    @property
    def first_piece(self) -> tuple[float, float]:
        """The median, and what 99 of 100 streams stay below."""
        return percentile(self.tally["first_pieces"], 50), percentile(self.tally["first_pieces"], 99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--rate", type=float, default=RATE, help="tokens a second of each stream")
    parser.add_argument("--over", type=float, default=0.0, help="seconds over which the streams begin")
    parser.add_argument("--route", choices=("chat", "text"), default="chat")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["direct", "ours", "nginx", "litellm"])
    parser.add_argument("--litellm", type=Path, default=streams_sides.LITELLM, help="the program")
    parser.add_argument("--every-token", action="store_true", help="the engine ignores vLLM's stream_interval")
    parser.add_argument("--short", action="store_true", help=f"{SHORT_STREAMS} streams of {SHORT_TOKENS} tokens")
    args = parser.parse_args()
    streams_sides.LITELLM = args.litellm
    os.environ["CROWD_RATE"] = str(args.rate)
    if args.short:
        args.streams, args.tokens = min(args.streams, SHORT_STREAMS), min(args.tokens, SHORT_TOKENS)
    every = ("--every-token",) if args.every_token else ()
    title = f"Streams: {args.streams} of {args.tokens} tokens at {args.rate:g}/s, {args.route}"
    with session(title), streams_sides.engine(args.rate, *every) as upstream:
        runs = [one_run(name, upstream.port, args) for name in args.sides if is_installed(name)]
    report(runs, args)


def is_installed(name: str) -> bool:
    program = {"litellm": streams_sides.LITELLM, "nginx": streams_sides.NGINX}.get(name)
    if program is not None and not program.is_file():
        print(f"  {name} is left out: {program} does not exist.")
        return False
    return True


def one_run(name: str, upstream: int, args: argparse.Namespace) -> Run:
    with SIDES[name](upstream) as side:
        clients(side, args, streams=2, tokens=3)  # imports and caches
        time.sleep(1.0)
        page = PageChats(side.port) if side.has_page else None
        before = used_memory(side)
        cpu = cpu_seconds(side.pids())
        with watched(side) as watch:
            if page is not None:
                page.begin()
            tally = clients(side, args, args.streams, args.tokens)
        chats = page.end() if page is not None else []
        cpu = cpu_seconds(side.pids()) - cpu
        time.sleep(SETTLE_SECONDS)
        after = used_memory(side)
        clients(side, args, args.streams, BURST_TOKENS)
        time.sleep(SETTLE_SECONDS)
        again = used_memory(side)
    return Run(name, tally, cpu, before, max(watch.peak, after), after, again, watch.health, chats)


def clients(side: Side, args: argparse.Namespace, streams: int, tokens: int) -> dict[str, Any]:
    """Run the clients to their end and return what they printed."""
    values = {
        "--port": side.port,
        "--streams": streams,
        "--tokens": tokens,
        "--route": args.route,
        "--model": side.model,
        "--key": side.key,
        "--over": args.over,
    }
    flags = [f"{name}={value}" for name, value in values.items()]
    command = [sys.executable, "benchmarks/streams_client.py", *flags]
    result: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    return result


@contextlib.contextmanager
def watched(side: Side) -> Iterator[Watch]:
    """Ask for the side's health and measure its memory in two threads until the end of the block."""
    watch, ended = Watch(), threading.Event()

    def ask() -> None:
        while not ended.wait(HEALTH_PAUSE):
            began = time.monotonic()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{side.port}{side.health}", timeout=30).read()
            watch.health.append(time.monotonic() - began)

    def measure() -> None:
        while not ended.wait(MEMORY_PAUSE):
            with contextlib.suppress(OSError):  # one of its processes has just ended
                watch.peak = max(watch.peak, used_memory(side))

    threads = [threading.Thread(target=ask), threading.Thread(target=measure)]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def used_memory(side: Side) -> int:
    return memory(*side.pids()).proportional


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the processor time of processes, and of their children that have ended."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICK


def percentile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def report(runs: Sequence[Run], args: argparse.Namespace) -> None:
    rows = [
        (
            run.name,
            f"{run.tally['complete']} of {args.streams}",
            run.tokens_per_second,
            run.cpu_per_token,
            run.memory_per_stream(args.streams),
            (run.after - run.before) / 1e6,
            (run.again - run.after) / 1e6,
            *run.first_piece,
            run.tally["longest_gap"],
            percentile(run.health, 99),
            run.tally["tokens"] / max(run.tally["events"], 1),
        )
        for run in runs
    ]
    head = ("side", "complete", "tokens/s", "µs CPU/token", "kB/stream", "MB kept", "MB more")
    table([*head, "first p50, s", "p99, s", "longest gap, s", "health p99, s", "tokens/event"], rows)
    for run in runs:
        for fault in sorted(set(run.tally["faults"])):
            print(f"  {run.name}: {run.tally['faults'].count(fault)} × {fault}")
        if run.chats:
            first, median, most = run.chats[0], statistics.median(run.chats), max(run.chats)
            shown = f"{first:.2f} s the first, {median:.2f} s in the middle, {most:.2f} s at most of {len(run.chats)}"
            verdict(f"{run.name}: a chat begins after", shown, f"{MAX_CHAT} s", most <= MAX_CHAT)
    by_name = {run.name: run for run in runs}
    if args.short:
        print("The limits are for the full size: a stream of few tokens mostly costs what its request costs.")
    elif "ours" in by_name and "direct" in by_name:
        judge(by_name["ours"], by_name["direct"], by_name.get("litellm"), args.streams)


def judge(ours: Run, direct: Run, litellm: Run | None, streams: int) -> None:
    complete, cpu, kilobytes = ours.tally["complete"], ours.cpu_per_token, ours.memory_per_stream(streams)
    speed, growth = ours.tokens_per_second / direct.tokens_per_second, (ours.again - ours.after) / 1e6
    delay, health = ours.first_piece[1] - direct.first_piece[1], percentile(ours.health, 99)
    verdict("complete", f"{complete} of {streams}", "all", complete == streams)
    verdict("speed", f"{speed:.2f} × direct", f"{MIN_SPEED} ×", speed >= MIN_SPEED)
    verdict("processor time", f"{cpu:.0f} µs a token", f"{MAX_CPU:.0f} µs", cpu <= MAX_CPU)
    verdict("memory", f"{kilobytes:.0f} kB a stream", f"{MAX_MEMORY_KB:.0f} kB", kilobytes <= MAX_MEMORY_KB)
    verdict("growth by a second burst", f"{growth:.0f} MB", f"{MAX_GROWTH_MB:.0f} MB", growth <= MAX_GROWTH_MB)
    verdict("first piece, p99", f"{delay:.2f} s after direct", f"{MAX_DELAY} s", delay <= MAX_DELAY)
    verdict("/healthz, p99", f"{health:.2f} s", f"{MAX_HEALTH} s", health <= MAX_HEALTH)
    if litellm is not None:
        advantage = litellm.cpu_per_token / cpu
        verdict("tokens a CPU second", f"{advantage:.1f} × LiteLLM", f"{MIN_ADVANTAGE:g} ×", advantage >= MIN_ADVANTAGE)


if __name__ == "__main__":
    main()
