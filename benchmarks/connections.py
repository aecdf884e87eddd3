"""1,000 idle connections and 256 streams at once, from an engine that writes all answers together: is any of them lost?

The idle connections are opened first, ask once, and ask once more on the same connection when all streams have ended.
The streams begin at the same moment. The memory is that of the main process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from figures import MB, session, table, verdict
from program import MODEL, Program, memory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modules.system.timeout import timeout

IDLE, STREAMS, TOKENS, RATE = 1000, 256, 200, 10.0
MEMORY_MB = 400
ANSWER_SECONDS = 120.0
HEAD = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json"


@dataclass
class Outcome:
    """The result for all connections; `faults` say what went wrong with those that were lost."""

    kept: int = 0
    complete: int = 0
    longest_gap: float = 0.0
    first_token: float = 0.0
    seconds: float = 0.0
    peak: int = 0
    faults: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=int, default=IDLE)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--rate", type=float, default=RATE, help="tokens a second of each stream")
    args = parser.parse_args()
    _allow_open_files(args.idle + args.streams + 100)
    flags = ("--api", "--loader", "Crowd", "--model", str(MODEL))
    variables = {"CROWD_RATE": str(args.rate)}
    with (
        session(f"Connections: {args.idle} idle, {args.streams} streams of {args.tokens} tokens at {args.rate:g}/s"),
        Program(*flags, script="benchmarks/crowd_server.py", variables=variables) as program,
    ):
        program.wait_for("/healthz")
        while json.loads(program.wait_for("/healthz"))["model"] != "ready":
            time.sleep(0.1)
        before = memory(program.pid).resident
        outcome = asyncio.run(measure(program, args.idle, args.streams, args.tokens))
    report(outcome, before, args.idle, args.streams)


def _allow_open_files(count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(count, 1024), hard), hard))


async def measure(program: Program, idle: int, streams: int, tokens: int) -> Outcome:
    outcome = Outcome()
    watcher = asyncio.create_task(_watch(outcome, lambda: memory(program.pid).resident))
    connections = await asyncio.gather(*(_connect(program.port, outcome) for _ in range(idle)))
    began = time.monotonic()
    await asyncio.gather(*(_stream(program.port, number, tokens, outcome) for number in range(streams)))
    outcome.seconds = time.monotonic() - began
    for connection in connections:
        if connection is not None and await _asks(*connection, outcome):
            outcome.kept += 1
    watcher.cancel()
    return outcome


async def _watch(outcome: Outcome, measured: Callable[[], int]) -> None:
    while True:
        outcome.peak = max(outcome.peak, measured())
        await asyncio.sleep(0.5)


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connect(port: int, outcome: Outcome) -> Connection | None:
    """Open a connection, and use it once; None if that fails."""
    try:
        connection = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        outcome.faults.append(f"idle: {error}")
        return None
    return connection if await _asks(*connection, outcome) else None


async def _asks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, outcome: Outcome) -> bool:
    """Send a small request; return whether it was answered."""
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        async with timeout(ANSWER_SECONDS):
            status, length = await _head(reader)
            await reader.readexactly(length)
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        outcome.faults.append(f"idle: {type(error).__name__}")
        return False
    if status != 200:
        outcome.faults.append(f"idle: status {status}")
    return status == 200


async def _head(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Read the head of an answer; return its status and the length of its body, 0 if it does not say."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lengths = [line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length:")]
    return int(head.split(" ", 2)[1]), int(lengths[0]) if lengths else 0


async def _stream(port: int, number: int, tokens: int, outcome: Outcome) -> None:
    """Read one streamed answer to its end."""
    body = json.dumps({"prompt": f"Stream {number}:", "max_tokens": tokens, "stream": True}).encode()
    head = f"{HEAD}\r\nContent-Length: {len(body)}"
    began = last = time.monotonic()
    words, finished = 0, False
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{head}\r\n\r\n".encode() + body)
        async with timeout(ANSWER_SECONDS + tokens):
            status, _ = await _head(reader)
            while line := await reader.readline():
                if not line.startswith(b"data: {"):
                    finished |= line.startswith(b"data: [DONE]")
                    if finished:
                        break
                    continue
                now = time.monotonic()
                if not words:
                    outcome.first_token = max(outcome.first_token, now - began)
                else:
                    outcome.longest_gap = max(outcome.longest_gap, now - last)
                last = now
                words += len(json.loads(line[6:])["choices"][0]["text"].split())
        writer.close()
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        outcome.faults.append(f"stream: {type(error).__name__} after {words} words")
        return
    if status == 200 and finished and words >= tokens:
        outcome.complete += 1
    else:
        outcome.faults.append(f"stream: status {status}, {words} words, {'ended' if finished else 'cut off'}")


def report(outcome: Outcome, before: int, idle: int, streams: int) -> None:
    rows = [
        ("memory of the main process before, MB", before / MB),
        ("highest, MB", outcome.peak / MB),
        ("slowest first token, s", outcome.first_token),
        ("longest gap between two events of a stream, s", outcome.longest_gap),
        ("all streams, s", outcome.seconds),
    ]
    table(["", "measured"], rows)
    for fault in sorted(set(outcome.faults)):
        print(f"  {outcome.faults.count(fault)} × {fault}")
    verdict("idle connections", f"{outcome.kept} of {idle}", "all", outcome.kept == idle)
    verdict("streams", f"{outcome.complete} of {streams}", "all", outcome.complete == streams)
    verdict("memory", f"{outcome.peak / MB:.0f} MB", f"{MEMORY_MB} MB", outcome.peak <= MEMORY_MB * MB)


if __name__ == "__main__":
    main()
