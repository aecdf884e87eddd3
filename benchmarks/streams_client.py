"""The clients of streams.py: concurrent streams whose tokens are counted one by one. Prints the result as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, field

import httptools

EVENT_LINE = b"data: "


@dataclass
class Tally:
    """The outcomes of all streams. Times are seconds; `tokens` are those that arrived."""

    complete: int = 0
    tokens: int = 0
    events: int = 0
    first_pieces: list[float] = field(default_factory=list)
    longest_gap: float = 0.0
    seconds: float = 0.0
    cpu: float = 0.0
    faults: list[str] = field(default_factory=list)


class StreamClient(asyncio.Protocol):
    """One stream. `ended` gets "" if its text is all the numbers in order, else what was wrong."""

    def __init__(self, request: bytes, wanted: int, tally: Tally) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._request, self._wanted, self._tally = request, wanted, tally
        self._parser = httptools.HttpResponseParser(self)
        self._rest, self._text, self._done = b"", [], False
        self._began = self._last = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"cut off after {len(''.join(self._text).split())} tokens ({type(exc).__name__})")

    def on_body(self, body: bytes) -> None:
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            if line.startswith(EVENT_LINE):
                self._take(line[len(EVENT_LINE) :].strip())

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        words = "".join(self._text).split()
        if status != 200:
            self._end(f"status {status}: {self._rest[:200].decode(errors='replace')}")
        elif not self._done:
            self._end(f"no [DONE] after {len(words)} tokens")
        else:
            self._end(fault_of(words, self._wanted))

    def _take(self, event: bytes) -> None:
        if event == b"[DONE]":
            self._done = True
            return
        body = json.loads(event)
        choices = body.get("choices")
        if choices is None:
            self._end(f"error: {json.dumps(body.get('error', body))[:200]}")
            return
        text = (choices[0].get("text") or choices[0].get("delta", {}).get("content")) if choices else ""
        if not text:
            return
        now = time.monotonic()
        if not self._text:
            self._tally.first_pieces.append(now - self._began)
        else:
            self._tally.longest_gap = max(self._tally.longest_gap, now - self._last)
        self._last = now
        self._tally.events += 1
        self._text.append(text)

    def _end(self, fault: str) -> None:
        if not self.ended.done():
            self._tally.tokens += len("".join(self._text).split())
            self.ended.set_result(fault)
            self._transport.close()


def fault_of(words: list[str], wanted: int) -> str:
    """Return what is wrong with the numbers of a stream, "" if nothing is."""
    expected = [str(number) for number in range(wanted)]
    if words == expected:
        return ""
    doubled = len(words) - len(set(words))
    missing = len(set(expected) - set(words))
    return f"{missing} tokens lost, {doubled} doubled, {len(words)} in all"


def request_of(number: int, args: argparse.Namespace) -> bytes:
    """Return the request of a stream; each has a text of its own, so that no cache helps."""
    question = f"Stream {number}: count, please. " + "Some more words. " * 10
    body = {"model": args.model, "max_tokens": args.tokens, "stream": True}
    if args.route == "chat":
        path, body["messages"] = "chat/completions", [{"role": "user", "content": question}]
    else:
        path, body["prompt"] = "completions", question
    data = json.dumps(body).encode()
    head = [
        f"POST /v1/{path} HTTP/1.1",
        f"Host: 127.0.0.1:{args.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *([f"Authorization: Bearer {args.key}"] if args.key else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + data


async def measure(args: argparse.Namespace) -> Tally:
    tally = Tally()
    began, cpu = time.monotonic(), time.process_time()

    async def run(number: int) -> str:
        await asyncio.sleep(args.over * number / args.streams)
        client = StreamClient(request_of(number, args), args.tokens, tally)
        try:
            await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", args.port)
            return await asyncio.wait_for(client.ended, args.patience)
        except (OSError, asyncio.TimeoutError) as error:
            return type(error).__name__

    faults = await asyncio.gather(*(run(number) for number in range(args.streams)))
    tally.seconds, tally.cpu = time.monotonic() - began, time.process_time() - cpu
    tally.faults = [fault for fault in faults if fault]
    tally.complete = len(faults) - len(tally.faults)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--route", choices=("chat", "text"), default="chat")
    parser.add_argument("--model", default="numbered")
    parser.add_argument("--key", default="")
    parser.add_argument("--over", type=float, default=0.0, help="seconds over which the streams begin")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds after which a stream is given up")
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    json.dump(asdict(asyncio.run(measure(args))), sys.stdout)


if __name__ == "__main__":
    main()
