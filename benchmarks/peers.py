"""llama.cpp's own programs, built as README.md describes, and a streaming client for OpenAI-compatible servers."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from program import POLL_SECONDS, ROOT, TIMEOUT_SECONDS, free_port, interrupt

PROGRAMS = ROOT / "cache" / "llama.cpp" / "bin"
IGNORE_EOS = {"ban_eos_token": True}
"""Parameter of our API that prevents an early end of an answer; in llama-server it is `ignore_eos`."""


def require(program: Path) -> None:
    if not program.is_file():
        sys.exit(f"{program} does not exist. See benchmarks/README.md for how to build it.")


# -- clients ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """A streamed answer: when the request was sent, when the chunks of text arrived, and the reported usage."""

    sent: float
    arrivals: list[float]
    tokens: int
    finish_reason: str
    text: str = ""

    @property
    def rate(self) -> float:
        """Tokens per second without the first token, whose time is that of the prompt."""
        return (self.tokens - 1) / (self.arrivals[-1] - self.arrivals[0])

    @property
    def first_token_seconds(self) -> float:
        return self.arrivals[0] - self.sent


def ask(port: int, path: str, body: Mapping[str, Any]) -> Answer:
    """Request a streamed answer. Chunks are parsed only after its end, to leave the cores to the model."""
    request = {"stream": True, "stream_options": {"include_usage": True}, **body}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    sent = time.perf_counter()
    connection.request("POST", path, json.dumps(request), {"Content-Type": "application/json"})
    response = connection.getresponse()
    chunks = []
    while chunk := response.read1(65536):
        chunks.append((time.perf_counter(), chunk))
    connection.close()
    if response.status != 200:
        sys.exit(f"{path} answered {response.status}: {b''.join(chunk for _, chunk in chunks).decode()}")
    return _parse(sent, chunks)


def _parse(sent: float, chunks: list[tuple[float, bytes]]) -> Answer:
    arrivals, tokens, finish_reason, texts = [], 0, "", []
    for arrival, event in _events(chunks):
        for choice in event.get("choices", ()):
            finish_reason = choice["finish_reason"] or finish_reason
            if text := choice.get("text") or choice.get("delta", {}).get("content"):
                arrivals.append(arrival)
                texts.append(text)
        tokens = event["usage"]["completion_tokens"] if event.get("usage") else tokens
    return Answer(sent, arrivals, tokens, finish_reason, "".join(texts))


def _events(chunks: list[tuple[float, bytes]]) -> Iterator[tuple[float, Any]]:
    """Yield all server-sent events with the time at which they were complete."""
    incomplete = b""
    for arrival, chunk in chunks:
        *events, incomplete = (incomplete + chunk).split(b"\n\n")
        for event in events:
            data = event.removeprefix(b"data: ")
            if data != b"[DONE]" and not event.startswith(b":"):  # a comment, while the client waits
                yield arrival, json.loads(data)


# -- programs --------------------------------------------------------------------------------------------------------


def llama_bench(program: Path, plan: Any, tokens: int, repeats: int) -> float:
    """Return the median tokens per second of decoding over `repeats` runs; llama-bench adds a warm-up run."""
    context = plan["calls"]["llama_init_from_model"]
    command = [str(program), "-m", plan["calls"]["llama_model_load_from_file"]["path_model"], "-o", "json"]
    command += ["-p", "0", "-n", str(tokens), "-r", str(repeats)]
    command += ["-t", str(context["n_threads"]), "-fa", str(context["flash_attn_type"])]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    rates: list[float] = json.loads(run.stdout)[0]["samples_ts"]
    return statistics.median(rates)


class LlamaServer:
    """`llama-server` on a free port, with the model and threads of `plan`; stopped at the end of the `with` block."""

    def __init__(self, program: Path, plan: Any, slots: int, context: int) -> None:
        self.port = free_port()
        params = plan["calls"]["llama_init_from_model"]
        command = [str(program), "-m", plan["calls"]["llama_model_load_from_file"]["path_model"]]
        command += ["--port", str(self.port), "-np", str(slots), "-c", str(context), "-fa", "on"]
        command += ["-t", str(params["n_threads"]), "-tb", str(params["n_threads_batch"]), "-b", str(params["n_batch"])]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object)
        self._process = subprocess.Popen(command, stdout=self._output, stderr=self._output)

    def __enter__(self) -> LlamaServer:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return self
            except OSError:
                time.sleep(POLL_SECONDS)
        self._output.seek(0)
        sys.exit(f"llama-server did not start:\n{self._output.read().decode(errors='replace')[-2000:]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupt(self._process)
