"""Speed of the Transformers loader, compared with transformers alone on the same folder in the same run.

Decode: an answer of 128 tokens streamed through the worker's pipes, compared with `model.generate()` without a streamer
in another process. Second turn: the time to the first token of a question after a first turn of 1,500 tokens, compared
with one `forward` of the new tokens with saved `past_key_values`. Four and eight at once: the tokens of that many
concurrent answers divided by the time until the last one ends, compared with a single answer. All alternate, so that a
machine that slows down slows all of them; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from program import MODEL, ROOT

sys.path.insert(0, str(ROOT))
from modules.core.events import Done, Result, Text
from modules.loaders import generation_settings
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import find_loader
from modules.runtime.worker_process import ANSWER_WAITING, WorkerProcess
from tests.support.hf_folder import transformers_folder

ROUNDS, TOKENS, SHORT, LONG = 7, 128, 32, 1500
MIN_DECODE_RATIO, MAX_TURN_RATIO = 0.98, 1.2
MIN_BATCH_RATIOS = {4: 3.5, 8: 5.0}
"""By the number of answers at once."""
PROMPT = "Once upon a time, in a small village by the sea, there lived"  # SmolLM2 continues it for hundreds of tokens
QUESTION = "<|im_end|>\n<|im_start|>user\nWhat was that about?<|im_end|>\n<|im_start|>assistant\n"


def main() -> None:
    if sys.argv[1:2] == ["--reference"]:
        serve_reference(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a transformers folder; by default converted from the demo model")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--short", action="store_true", help="32 tokens instead of 128, and no second turn")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    args = parser.parse_args()
    folder = args.folder or transformers_folder(MODEL)
    tokens = SHORT if args.short else TOKENS
    title = f"Transformers: {folder.name} in {args.dtype}, {tokens} tokens, {args.rounds} rounds"
    with (
        session(title),
        closing(Worker(folder, args.dtype, tokens)) as ours,
        closing(Reference(folder, args.dtype, tokens)) as reference,
    ):
        measurements: dict[str, Callable[[int], float]] = {"answer": ours.answer, "generate": reference.answer}
        if not args.short:
            measurements |= {"turn": ours.turn, "saved cache": reference.turn}
        measurements |= {f"{clients}": partial(ours.together, clients) for clients in MIN_BATCH_RATIOS}
        for measure in measurements.values():
            measure(-1)  # warm up
        rounds = range(args.rounds)
        by_round = [{name: measure(number) for name, measure in measurements.items()} for number in rounds]
        report({name: [values[name] for values in by_round] for name in measurements})


def first_turn(number: int) -> str:
    """Return a text of LONG tokens that shares no prefix with that of another round."""
    return f"{number + 10} " + "The moon is bright tonight and the sea is calm. " * (LONG // 11)


class Worker:
    """Our worker with the model loaded."""

    def __init__(self, folder: Path, dtype: str, tokens: int) -> None:
        self._tokens = tokens
        loader = find_loader("Transformers")
        settings = resolve(loader, model={}, saved={}, flags={}, form={"bf16": dtype == "bfloat16"})
        self._worker = WorkerProcess(waiting=ANSWER_WAITING)
        self._call("load", engine=loader.engine, path=str(folder), options=option_values(settings))

    def _call(self, operation: str, **args: Any) -> Any:
        return next(event for event in self._worker.events(operation, **args) if isinstance(event, Result)).value

    def close(self) -> None:
        self._worker.close()

    def answer(self, number: int) -> float:
        """Return the tokens per second of one answer."""
        self._call("forget")
        began = time.perf_counter()
        self._generate(f"{PROMPT} {number}", self._tokens)
        return self._tokens / (time.perf_counter() - began)

    def _generate(self, prompt: str, tokens: int) -> float:
        """Until the first piece of text, in seconds; it reads all of them."""
        params = generation_settings.resolve({"temperature": 0, "max_new_tokens": tokens, "ban_eos_token": True})
        began, first = time.perf_counter(), 0.0
        for event in self._worker.events("generate", prompt=prompt, params=params):
            if isinstance(event, Text) and not first:
                first = time.perf_counter() - began
            if isinstance(event, Done) and event.completion_tokens != tokens:
                sys.exit(f"The answer had {event.completion_tokens} tokens: use a prompt with a longer answer.")
        return first

    def turn(self, number: int) -> float:
        """Return the seconds to the first token of a second turn."""
        self._call("forget")
        self._generate(first_turn(number), 1)
        return self._generate(first_turn(number) + QUESTION, 1)

    def together(self, clients: int, number: int) -> float:
        """Return the tokens per second of all concurrent answers together."""
        self._call("forget")
        prompts = [f"{PROMPT} {number} {client}" for client in range(clients)]
        threads = [threading.Thread(target=self._generate, args=(prompt, self._tokens)) for prompt in prompts]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return clients * self._tokens / (time.perf_counter() - began)


class Reference:
    """transformers in a child process; like those of our worker, its threads are not bound to cores."""

    def __init__(self, folder: Path, dtype: str, tokens: int) -> None:
        self._tokens = tokens
        model = json.dumps({"folder": str(folder), "dtype": dtype, "tokens": tokens})
        command = [sys.executable, __file__, "--reference", model]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, *request: object) -> float:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        return float(self._child.stdout.readline())

    def answer(self, number: int) -> float:
        return self._tokens / self._ask("answer", f"{PROMPT} {number}")

    def turn(self, number: int) -> float:
        return self._ask("turn", first_turn(number), QUESTION)

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()


def serve_reference(request: dict[str, Any]) -> None:
    """Run the child process: read requests from stdin and write the seconds that each takes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

    tokenizer = AutoTokenizer.from_pretrained(request["folder"])
    model = AutoModelForCausalLM.from_pretrained(request["folder"], dtype=getattr(torch, request["dtype"]))

    def answer(prompt: str) -> None:
        inputs = tokenizer(prompt, return_tensors="pt")
        model.generate(**inputs, max_new_tokens=request["tokens"], min_new_tokens=request["tokens"], do_sample=False)

    def prepare(first: str) -> Any:
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            model(**tokenizer(first, return_tensors="pt"), past_key_values=cache, logits_to_keep=1)
        return cache

    def first_token(cache: Any, question: str) -> str:
        new = tokenizer(question, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=new, past_key_values=cache, logits_to_keep=1).logits
        return str(tokenizer.decode(logits[0, -1].argmax()))

    for line in sys.stdin:
        operation, *texts = json.loads(line)
        cache = prepare(texts[0]) if operation == "turn" else None
        began = time.perf_counter()
        if cache is None:
            answer(texts[0])
        else:
            first_token(cache, texts[1])
        print(time.perf_counter() - began, flush=True)


def report(measured: dict[str, list[float]]) -> None:
    pairs = {"decode, tokens/s": (measured["answer"], measured["generate"])}
    if "turn" in measured:
        pairs["second turn, seconds to the first token"] = (measured["turn"], measured["saved cache"])
    for clients in MIN_BATCH_RATIOS:
        pairs[f"{clients} at once and one alone, tokens/s"] = (measured[f"{clients}"], measured["answer"])
    rows = []
    for name, (ours, theirs) in pairs.items():
        ratios = [our_value / their_value for our_value, their_value in zip(ours, theirs, strict=True)]
        rows.append((name, *map(statistics.median, (ours, theirs, ratios)), min(ratios), max(ratios)))
    table(["", "ours", "reference", "ratio", "lowest", "highest"], rows)
    medians = [row[3] for row in rows]
    least = {"Decode relative to generate()": (medians[0], MIN_DECODE_RATIO)}
    for ratio, (clients, limit) in zip(medians[-2:], MIN_BATCH_RATIOS.items(), strict=True):
        least[f"{clients} at once relative to one"] = (ratio, limit)
    for name, (ratio, limit) in least.items():
        verdict(name, f"{ratio:.2f}", f"{limit} at least", ratio >= limit)
    if "turn" in measured:
        turn = medians[1]
        verdict(
            "Second turn relative to saved cache", f"{turn:.2f}", f"{MAX_TURN_RATIO} at most", turn <= MAX_TURN_RATIO
        )


if __name__ == "__main__":
    main()
