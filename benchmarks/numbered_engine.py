"""A server like vLLM's without a model, whose answers are numbered tokens: " 0 1 2 3 …", one a step for every stream.

    .venv/bin/python benchmarks/numbered_engine.py --port 8100 --rate 20

A lost or doubled token shows in the text. The tokens of prompts are their bytes, those of answers are FIRST_ID and
more; a prompt that ends with a token of an answer is continued from there. One step writes to all streams, as an engine
with continuous batching does. A request with vLLM's `stream_interval` gets an event every so many tokens, except with
`--every-token`, for servers that do not know it.

It serves /v1/completions, /v1/chat/completions, /v1/models, /tokenize, /detokenize, /version and /health; `--plain`
leaves out the last four, as servers do that have OpenAI's API alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import httptools

MODEL = "numbered"
CONTEXT = 32_768
FIRST_ID = 1000
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_STATUS = {200: "OK", 400: "Bad Request", 404: "Not Found"}
_MARKERS = {"system": "<|im_start|>system\n", "user": "<|im_start|>user\n", "assistant": "<|im_start|>assistant\n"}


class Stream:
    """One answer under way."""

    def __init__(self, transport: asyncio.Transport, body: Mapping[str, Any], chat: bool, prompt: list[int]) -> None:
        self.transport = transport
        first = prompt[-1] - FIRST_ID + 1 if prompt and prompt[-1] >= FIRST_ID else 0
        self._first, self.written, self._wanted = first, 0, int(body.get("max_tokens") or 16)
        self._prompt = prompt
        self._interval, self._held = int(body.get("stream_interval") or 1), list[int]()
        self._ids = bool(body.get("return_token_ids"))
        self._usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._facts = {
            "id": f"cmpl-{id(self):x}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": body.get("model") or MODEL,
        }
        self._chat = chat
        before, _, self._after = self._event("\0", None).partition(b"\\u0000")
        self._before = before

    def step(self) -> bool:
        """Write the next token; return whether it was the last."""
        self._held.append(self._first + self.written)
        self.written += 1
        last = self.written >= self._wanted
        if not last and self.written > 1 and len(self._held) < self._interval:
            return False
        text = "".join(f" {number}" for number in self._held)
        if last or self._ids:
            self._write(self._event(text, "length" if last else None))
        else:  # put together without encoding JSON
            self._write(b"%b%b%b" % (self._before, text.encode(), self._after))
        self._held.clear()
        if last:
            self._end()
        return last

    def _event(self, text: str, reason: str | None) -> bytes:
        piece: dict[str, Any] = {"delta": {"content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **piece, "logprobs": None, "finish_reason": reason, "stop_reason": None}
        if self._ids:
            choice["token_ids"] = [FIRST_ID + number for number in self._held]
            if self.written == 1:
                choice["prompt_token_ids"] = self._prompt
        return _sse({**self._facts, "choices": [choice]})

    def _end(self) -> None:
        if self._usage:
            prompt = len(self._prompt)
            usage = {"prompt_tokens": prompt, "completion_tokens": self.written, "total_tokens": prompt + self.written}
            self._write(_sse({**self._facts, "choices": [], "usage": usage}))
        self._write(b"data: [DONE]\n\n")
        self.transport.write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


def _sse(body: object) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


class Engine:
    """All streams, and the loop that continues them."""

    def __init__(self, rate: float) -> None:
        self._pause = 1 / rate
        self.streams: dict[asyncio.Transport, Stream] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time()
        while True:
            at = max(at + self._pause, loop.time())
            await asyncio.sleep(at - loop.time())
            for transport, stream in list(self.streams.items()):
                if stream.step():
                    self.streams.pop(transport, None)


class Connection(asyncio.Protocol):
    """One client, which sends one request after the other."""

    def __init__(self, engine: Engine, plain: bool, every_token: bool) -> None:
        self._engine, self._plain, self._every_token = engine, plain, every_token
        self._url, self._body = b"", bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._engine.streams.pop(self._transport, None)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._url, self._body = url, bytearray()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path = self._url.partition(b"?")[0].decode()
        serve = self._routes().get((self._parser.get_method(), path))
        if serve is None:
            self._answer({"detail": "Not Found"}, 404)
            return
        try:
            serve(json.loads(self._body or b"{}"))
        except (ValueError, KeyError, TypeError) as error:
            self._answer({"error": {"message": str(error), "type": "BadRequestError", "code": 400}}, 400)

    def _routes(self) -> dict[tuple[bytes, str], Callable[[Any], None]]:
        routes: dict[tuple[bytes, str], Callable[[Any], None]] = {
            (b"GET", "/v1/models"): self._models,
            (b"POST", "/v1/completions"): self._complete,
            (b"POST", "/v1/chat/completions"): self._chat,
        }
        if self._plain:
            return routes
        return routes | {
            (b"GET", "/health"): lambda body: self._answer({}),
            (b"GET", "/healthz"): lambda body: self._answer({}),
            (b"GET", "/version"): lambda body: self._answer({"version": "0.32.0"}),
            (b"POST", "/tokenize"): self._tokenize,
            (b"POST", "/detokenize"): lambda body: self._answer({"prompt": text_of(body["tokens"])}),
        }

    def _models(self, body: object) -> None:
        owner = {"owned_by": "numbered"} if self._plain else {"owned_by": "vllm", "max_model_len": CONTEXT}
        self._answer({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, **owner}]})

    def _tokenize(self, body: Mapping[str, Any]) -> None:
        text = rendered(body["messages"], body) if "messages" in body else body["prompt"]
        tokens = list(text.encode())
        self._answer({"count": len(tokens), "max_model_len": CONTEXT, "tokens": tokens, "token_strs": None})

    def _complete(self, body: Mapping[str, Any]) -> None:
        prompt = body["prompt"]
        self._generate(body, False, list(prompt.encode()) if isinstance(prompt, str) else prompt)

    def _chat(self, body: Mapping[str, Any]) -> None:
        self._generate(body, True, list(rendered(body["messages"], body).encode()))

    def _generate(self, body: Mapping[str, Any], chat: bool, prompt: list[int]) -> None:
        if self._every_token:
            body = {**body, "stream_interval": 1}
        if body.get("stream"):
            self._transport.write(_HEAD)
            self._engine.streams[self._transport] = Stream(self._transport, body, chat, prompt)
            return
        count = int(body.get("max_tokens") or 16)
        text = "".join(f" {number}" for number in range(count))
        piece: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, **piece, "logprobs": None, "finish_reason": "length"}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count}
        self._answer({"id": "cmpl-0", "created": 0, "model": MODEL, "choices": [choice], "usage": usage})

    def _answer(self, body: object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} {_STATUS[status]}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
        self._transport.write(f"{head}\r\n\r\n".encode() + data)


def text_of(tokens: list[int]) -> str:
    """Return the text of tokens of prompts and answers."""
    pieces = [f" {token - FIRST_ID}".encode() if token >= FIRST_ID else bytes([token]) for token in tokens]
    return b"".join(pieces).decode()


def rendered(messages: list[dict[str, Any]], body: Mapping[str, Any]) -> str:
    """Return the messages in ChatML, the format of vLLM's answer to /tokenize."""
    text = "".join(f"{_MARKERS[one['role']]}{one['content']}<|im_end|>\n" for one in messages)
    return text + (_MARKERS["assistant"] if body.get("add_generation_prompt", True) else "")


async def serve(port: int, rate: float, plain: bool, every_token: bool) -> None:
    engine = Engine(rate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(engine, plain, every_token), "127.0.0.1", port, backlog=4096)
    async with server:
        await engine.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=20.0, help="tokens a second of each stream")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--every-token", action="store_true")
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    asyncio.run(serve(args.port, args.rate, args.plain, args.every_token))


if __name__ == "__main__":
    main()
