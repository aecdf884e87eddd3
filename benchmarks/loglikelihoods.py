"""Perplexity of one GGUF model in chunks of 512 tokens, and its speed, compared with llama.cpp's own program.

Ours: the operation "loglikelihoods" through the pipes of a worker with bound threads, one chunk a call. Compared with
`llama-perplexity` if it was built (benchmarks/README.md), with the same threads, batch sizes and flash attention; else
with a loop over llama-cpp-python's low-level calls that batches four chunks as that program does. Both alternate, so
that a machine that slows down slows both.

`--kl` compares the divergence of a coarser copy of the model instead: its weights of four bits are rounded to three.
The reference is `llama-perplexity --kl-divergence`, which rounds the distributions of the model to 16 bits.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from peers import PROGRAMS
from program import MODEL, ROOT, explain

sys.path.insert(0, str(ROOT))
from modules.core.events import Json, Result
from modules.engines.loglikelihoods import Loglikelihoods
from modules.evaluation.statistics import perplexity
from modules.evaluation.windows import CHUNK_LENGTH, CHUNKS, Window, plan_windows
from modules.formats.gguf_header import read_tensors
from modules.loaders.availability import overlay_of
from modules.loaders.registry import find_loader
from modules.runtime.core_binding import CoreBinding
from modules.runtime.worker_process import WorkerProcess

COUNT, ROUNDS = 32, 5
SHORT_COUNT, SHORT_ROUNDS = 4, 1
MIN_RATIO, MAX_DIFFERENCE, MAX_KL_DIFFERENCE = 0.9, 0.001, 0.02
CHUNKS_AT_ONCE = 4
"""Chunks that llama-perplexity puts into one batch of 2,048 tokens."""


@dataclass(frozen=True)
class Measurement:
    """The perplexity of all chunks and how many seconds they took."""

    perplexity: float
    seconds: float


def main() -> None:
    if sys.argv[1:2] == ["--reference"]:
        serve_reference(json.loads(sys.stdin.readline()))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--text", type=Path, help="a text of at least so many chunks; by default our documentation")
    parser.add_argument("--chunks", type=int, default=COUNT)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-flash-attn", action="store_true", help="without flash attention on both sides")
    parser.add_argument("--kl", action="store_true", help="compare the KL divergence of a coarser copy (Q4_0, Q4_1)")
    parser.add_argument("--short", action="store_true", help=f"{SHORT_COUNT} chunks in one round")
    parser.add_argument("--programs", type=Path, default=PROGRAMS, help="folder with llama-perplexity")
    args = parser.parse_args()
    count, rounds = (SHORT_COUNT, SHORT_ROUNDS) if args.short else (args.chunks, args.rounds)
    text = args.text.read_text() if args.text else default_text()
    plan = explain(args.model)
    if args.no_flash_attn:
        plan["options"]["flash_attn"]["value"] = False
        plan["calls"]["llama_init_from_model"]["flash_attn_type"] = 0
    program = args.programs / "llama-perplexity"
    if args.kl:
        with session(f"KL divergence: {args.model.name}, {count} chunks of {CHUNK_LENGTH} tokens"):
            compare_divergences(plan, program, text, count)
        return
    with (
        session(f"Log-likelihoods: {args.model.name}, {count} chunks of {CHUNK_LENGTH} tokens, {rounds} rounds"),
        closing(Worker(plan, text, count)) as ours,
        closing(Program(program, plan, text, count) if program.is_file() else LowLevel(plan, ours.windows)) as theirs,
    ):
        ours.measure(), theirs.measure()  # warm up
        report(theirs.name, count, [(ours.measure(), theirs.measure()) for _ in range(rounds)])


def compare_divergences(plan: Any, program: Path, text: str, count: int) -> None:
    """Compare the divergence of the coarser copy by our worker and by llama-perplexity."""
    if not program.is_file():
        sys.exit(f"{program} was not built: see benchmarks/README.md")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        coarse = copy.deepcopy(plan)
        model = Path(plan["calls"][_LOAD]["path_model"])
        coarse["calls"][_LOAD]["path_model"] = str(coarsened(model, folder / "coarse.gguf"))
        found: list[float] = []
        for side, key in ((plan, "keep"), (coarse, "against")):
            with closing(Worker(side, text, count)) as worker:
                found = worker.divergences(folder, key)
        theirs = math.nan
        for side in (plan, coarse):
            with closing(Program(program, side, text, count)) as peer:
                theirs = peer.divergence(folder / "distributions")
    ours = statistics.fmean(found)
    table(
        ("", "mean KL divergence, nats", "tokens"),
        [("ours", f"{ours:.6f}", len(found)), ("theirs", f"{theirs:.6f}", "")],
    )
    apart = abs(ours / theirs - 1)
    verdict("KL divergence", f"{apart:.2%} apart", f"{MAX_KL_DIFFERENCE:.0%}", apart <= MAX_KL_DIFFERENCE)


def coarsened(model: Path, target: Path) -> Path:
    """Write a copy of a GGUF file of which weights in Q4_0 and Q4_1 are even: they have three bits."""
    content = bytearray(model.read_bytes())
    entries = read_tensors(model)[1]
    data = (len(content) - max(entry.offset + entry.size for entry in entries)) // 32 * 32
    for entry in entries:
        if entry.type in _SCALES:
            scales = _SCALES[entry.type]
            for start in range(data + entry.offset, data + entry.offset + entry.size, scales + 16):
                weights = slice(start + scales, start + scales + 16)
                content[weights] = content[weights].translate(_COARSER)
    target.write_bytes(content)
    return target


_LOAD = "llama_model_load_from_file"
_SCALES = {"Q4_0": 2, "Q4_1": 4}
"""Bytes before the 32 weights of a block."""
_EVEN = (0, 0, 2, 4, 4, 4, 6, 8, 8, 8, 10, 12, 12, 12, 14, 14)
"""Odd weights are rounded up and down in turns, so that their mean stays the same."""
_COARSER = bytes(_EVEN[value >> 4] << 4 | _EVEN[value & 15] for value in range(256))


def default_text() -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))


class Worker:
    """Our worker with the model loaded, and the first chunks of the text."""

    def __init__(self, plan: Any, text: str, count: int) -> None:
        loader = find_loader(plan["loader"])
        overlay = overlay_of(loader)
        self._worker = WorkerProcess(overlay and overlay.folder, waiting={})
        options = {key: option["value"] for key, option in plan["options"].items()}
        path = plan["calls"]["llama_model_load_from_file"]["path_model"]
        for event in self._worker.events("load", engine=loader.engine, path=path, options=options):
            if isinstance(event, Result):
                break
        CoreBinding().bind(self._worker)
        tokens = self._worker.call("encode", text=text, add_special=False)
        special = self._worker.call("encode", text="")
        windows = plan_windows(tokens, CHUNKS, 0, CHUNK_LENGTH, special[0] if special else None)
        if len(windows) < count:
            sys.exit(f"the text has only {len(windows)} chunks")
        self.windows = windows[:count]

    def measure(self) -> Measurement:
        began = time.perf_counter()
        scores = [self._scores(window) for window in self.windows]
        return Measurement(perplexity(scores).value, time.perf_counter() - began)

    def divergences(self, folder: Path, key: str) -> list[float]:
        """Keep distributions in `folder` ("keep"), or return the KL divergence from them by token ("against")."""
        found: list[float] = []
        for index, window in enumerate(self.windows):
            file = {key: str(folder / f"{index}.logprobs")}
            answer = self._worker.call("loglikelihoods", tokens=list(window.tokens), first=window.first, **file)
            found += Loglikelihoods.from_json(answer).kl
        return found

    def _scores(self, window: Window) -> Sequence[float]:
        answer = self._worker.call("loglikelihoods", tokens=list(window.tokens), first=window.first)
        return Loglikelihoods.from_json(answer).logprobs

    def close(self) -> None:
        self._worker.close()


class Program:
    """llama-perplexity, whose time is its own "total time": without the load, with all log-softmaxes."""

    name = "llama-perplexity"

    def __init__(self, program: Path, plan: Any, text: str, count: int) -> None:
        self._text = tempfile.NamedTemporaryFile("w", suffix=".txt")  # noqa: SIM115 (closed with this object)
        self._text.write(text)
        self._text.flush()
        context = plan["calls"]["llama_init_from_model"]
        self._command = [str(program), "-m", plan["calls"]["llama_model_load_from_file"]["path_model"]]
        self._command += ["-f", self._text.name, "-c", str(CHUNK_LENGTH), "--chunks", str(count)]
        self._command += ["-t", str(context["n_threads"]), "-tb", str(context["n_threads_batch"])]
        self._command += ["-b", str(context["n_batch"]), "-ub", str(context["n_ubatch"])]
        self._command += ["-fa", "on" if context["flash_attn_type"] else "off"]

    def divergence(self, distributions: Path) -> float:
        """Return the mean KL divergence from the distributions in a file; write them there if there is none."""
        command = [*self._command, "--kl-divergence-base", str(distributions)]
        command += ["--kl-divergence"] if distributions.is_file() else []
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        found = re.search(r"Mean +KLD: +([\d.]+)", run.stdout + run.stderr)
        return float(found[1]) if found else math.nan

    def measure(self) -> Measurement:
        run = subprocess.run(self._command, check=True, capture_output=True, text=True)
        output = run.stdout + run.stderr
        begun = re.search(_TIME + r"perplexity: calculating perplexity", output)
        ended = re.search(_TIME + r"Final estimate: PPL = ([\d.]+)", output)
        if begun is None or ended is None:
            sys.exit(f"llama-perplexity printed no result:\n{output[-2000:]}")
        return Measurement(float(ended[5]), _seconds(ended) - _seconds(begun))

    def close(self) -> None:
        self._text.close()


_TIME = r"(\d+)\.(\d\d)\.(\d{3})\.(\d{3}) I "
"""The time of a line of llama.cpp's log: minutes, seconds, milliseconds and microseconds since its start."""


def _seconds(line: re.Match[str]) -> float:
    minutes, seconds, milliseconds, microseconds = map(int, line.groups()[:4])
    return minutes * 60 + seconds + milliseconds / 1e3 + microseconds / 1e6


class LowLevel:
    """A child process that loops over llama-cpp-python's low-level calls."""

    name = "low-level loop"

    def __init__(self, plan: Any, windows: Sequence[Window]) -> None:
        print("llama-perplexity was not built: compared with a loop over llama-cpp-python's low-level calls.")
        overlay = overlay_of(find_loader(plan["loader"]))
        environment = {"PYTHONPATH": str(overlay.folder)} if overlay else {}
        self._child = subprocess.Popen(
            ["env", *(f"{key}={value}" for key, value in environment.items()), sys.executable, __file__, "--reference"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        chunks = [list(window.tokens) for window in windows]
        self._ask({"calls": plan["calls"], "chunks": chunks, "first": windows[0].first})

    def _ask(self, body: Json) -> str:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(body) + "\n")
        self._child.stdin.flush()
        return self._child.stdout.readline()

    def measure(self) -> Measurement:
        return Measurement(*json.loads(self._ask({})))

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()


def serve_reference(request: Json) -> None:
    """Load the model by the calls of the request; then measure once for every line of stdin."""
    import llama_cpp.llama_cpp as native

    native.llama_backend_init()
    arguments = request["calls"]["llama_model_load_from_file"]
    model_params = native.llama_model_default_params()
    for name in ("n_gpu_layers", "use_extra_bufts"):
        if name in arguments:
            setattr(model_params, name, arguments[name])
    model = native.llama_model_load_from_file(arguments["path_model"].encode(), model_params)
    params = native.llama_context_default_params()
    ours = request["calls"]["llama_init_from_model"]
    for name in ("n_threads", "n_threads_batch", "n_ubatch", "flash_attn_type"):
        setattr(params, name, ours[name])
    params.n_ctx = params.n_batch = CHUNKS_AT_ONCE * CHUNK_LENGTH
    params.n_seq_max = CHUNKS_AT_ONCE
    context = native.llama_init_from_model(model, params)
    print(flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        losses = [
            loss
            for begin in range(0, len(request["chunks"]), CHUNKS_AT_ONCE)
            for loss in evaluate(context, model, request["chunks"][begin : begin + CHUNKS_AT_ONCE], request["first"])
        ]
        print(json.dumps([math.exp(statistics.fmean(losses)), time.perf_counter() - began]), flush=True)


def evaluate(context: Any, model: Any, chunks: Sequence[Sequence[int]], first: int) -> list[float]:
    """Return the losses of the targets of chunks that are evaluated in one batch, a sequence each."""
    import ctypes

    import llama_cpp.llama_cpp as native
    import numpy as np

    size = native.llama_vocab_n_tokens(native.llama_model_get_vocab(model))
    batch = native.llama_batch_init(CHUNKS_AT_ONCE * CHUNK_LENGTH, 0, 1)
    for sequence, chunk in enumerate(chunks):
        for position, token in enumerate(chunk):
            index = batch.n_tokens
            batch.token[index], batch.pos[index], batch.n_seq_id[index] = token, position, 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = first - 1 <= position < len(chunk) - 1
            batch.n_tokens += 1
    native.llama_memory_clear(native.llama_get_memory(context), True)
    if native.llama_decode(context, batch):
        sys.exit("llama_decode failed")
    native.llama_batch_free(batch)
    targets = [token for chunk in chunks for token in chunk[first:]]
    pointer = ctypes.cast(native.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
    losses = []
    for row, target in zip(np.ctypeslib.as_array(pointer, (len(targets), size)), targets, strict=True):
        peak = row.max()
        losses.append(float(np.log(np.exp(row - peak).sum(dtype=np.float64)) + peak - row[target]))
    return losses


def report(name: str, count: int, pairs: Sequence[tuple[Measurement, Measurement]]) -> None:
    tokens = count * CHUNK_LENGTH
    rates = {"ours": [tokens / ours.seconds for ours, _ in pairs], name: [tokens / one.seconds for _, one in pairs]}
    values = {"ours": pairs[0][0].perplexity, name: pairs[0][1].perplexity}
    table(
        ("", "tok/s", "perplexity"), [(side, statistics.median(rates[side]), f"{values[side]:.4f}") for side in rates]
    )
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    ratio, difference = statistics.median(ratios), abs(values["ours"] / values[name] - 1)
    spread = f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f}) of {name}"
    verdict("Speed", spread, f"at least {MIN_RATIO}", ratio >= MIN_RATIO)
    verdict("Perplexity", f"{difference:.4%} apart", f"{MAX_DIFFERENCE:.1%}", difference <= MAX_DIFFERENCE)


if __name__ == "__main__":
    main()
