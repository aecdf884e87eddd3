"""llama.cpp's own programs, built as README.md says, and what a client of any OpenAI-compatible server sees."""

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

from program import LOOK_SECONDS, PATIENCE_SECONDS, ROOT, end, free_port

PROGRAMS = ROOT / "cache" / "llama.cpp" / "bin"
WITHOUT_END = {"ban_eos_token": True}
"""What keeps our model from ending its answer early; llama-server calls it `ignore_eos`."""


def require(program: Path) -> None:
    if not program.is_file():
        sys.exit(f"{program} is not there; benchmarks/README.md says how to build it.")


# -- clients ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a client saw: when it asked, when each piece of text came, and what the usage and the end said."""

    asked: float
    arrivals: list[float]
    tokens: int
    end: str
    text: str = ""

    @property
    def rate(self) -> float:
        """Tokens a second, the first one not counted: its time is the prompt's."""
        return (self.tokens - 1) / (self.arrivals[-1] - self.arrivals[0])

    @property
    def first(self) -> float:
        """Seconds until the first piece of text."""
        return self.arrivals[0] - self.asked


def ask(port: int, path: str, body: Mapping[str, Any]) -> Answer:
    """One streamed answer. While it runs, no more is done than to note the time: the cores are the model's."""
    sent = {"stream": True, "stream_options": {"include_usage": True}, **body}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    asked = time.perf_counter()
    connection.request("POST", path, json.dumps(sent), {"Content-Type": "application/json"})
    response = connection.getresponse()
    pieces = []
    while piece := response.read1(65536):
        pieces.append((time.perf_counter(), piece))
    connection.close()
    if response.status != 200:
        sys.exit(f"{path} answered {response.status}: {b''.join(piece for _, piece in pieces).decode()}")
    return _read(asked, pieces)


def _read(asked: float, pieces: list[tuple[float, bytes]]) -> Answer:
    arrivals, tokens, end, texts = [], 0, "", []
    for moment, event in _events(pieces):
        for choice in event.get("choices", ()):
            end = choice["finish_reason"] or end
            if text := choice.get("text") or choice.get("delta", {}).get("content"):
                arrivals.append(moment)
                texts.append(text)
        tokens = event["usage"]["completion_tokens"] if event.get("usage") else tokens
    return Answer(asked, arrivals, tokens, end, "".join(texts))


def _events(pieces: list[tuple[float, bytes]]) -> Iterator[tuple[float, Any]]:
    """Each server-sent event, with the time at which it was complete."""
    held = b""
    for moment, piece in pieces:
        *whole, held = (held + piece).split(b"\n\n")
        for event in whole:
            data = event.removeprefix(b"data: ")
            if data != b"[DONE]":
                yield moment, json.loads(data)


# -- programs --------------------------------------------------------------------------------------------------------


def llama_bench(program: Path, told: Any, tokens: int, repeats: int) -> float:
    """Tokens a second of decoding alone: the median of `repeats` runs, after a warm-up of its own."""
    context = told["calls"]["llama_init_from_model"]
    words = [str(program), "-m", told["calls"]["llama_model_load_from_file"]["path_model"], "-o", "json"]
    words += ["-p", "0", "-n", str(tokens), "-r", str(repeats)]
    words += ["-t", str(context["n_threads"]), "-fa", str(context["flash_attn_type"])]
    run = subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    rates: list[float] = json.loads(run.stdout)[0]["samples_ts"]
    return statistics.median(rates)


class LlamaServer:
    """`llama-server` with the model and the threads of `told`, on a free port; ends with the `with` block."""

    def __init__(self, program: Path, told: Any, slots: int, context: int) -> None:
        self.port = free_port()
        calls = told["calls"]["llama_init_from_model"]
        words = [str(program), "-m", told["calls"]["llama_model_load_from_file"]["path_model"]]
        words += ["--port", str(self.port), "-np", str(slots), "-c", str(context), "-fa", "on"]
        words += ["-t", str(calls["n_threads"]), "-tb", str(calls["n_threads_batch"]), "-b", str(calls["n_batch"])]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with us)
        self._process = subprocess.Popen(words, stdout=self._output, stderr=self._output)

    def __enter__(self) -> LlamaServer:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return self
            except OSError:
                time.sleep(LOOK_SECONDS)
        self._output.seek(0)
        sys.exit(f"llama-server did not start:\n{self._output.read().decode(errors='replace')[-2000:]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(self._process)
