"""How fast the Transformers loader answers, against transformers alone on the same folder in the same run.

Decode: an answer of 128 tokens through the worker's pipes, each token streamed, against `model.generate()` without any
streamer in a process of its own. Second turn: the time to the first token of a question after a first turn of 1,500
tokens, against one `forward` of the new tokens with a `past_key_values` that was kept by hand. Four at once: the tokens
of four answers asked for together over the time until the last one has ended, against one alone. Rounds of all in turn,
so that a machine that slows down slows all; what counts are the ratios.
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
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from program import MODEL, ROOT

sys.path.insert(0, str(ROOT))
from modules.core.events import Done, Result, Text
from modules.loaders import generation_settings
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import find_loader
from modules.runtime.worker_process import WorkerProcess
from tests.support.hf_folder import transformers_folder

ROUNDS, TOKENS, LONG, CLIENTS = 7, 128, 1500, 4
DECODE_FLOOR, TURN_FLOOR, BATCH_FLOOR = 0.95, 1.2, 2.0
PROMPT = "Once upon a time, in a small village by the sea, there lived"  # SmolLM2 goes on for hundreds of tokens
QUESTION = "<|im_end|>\n<|im_start|>user\nWhat was that about?<|im_end|>\n<|im_start|>assistant\n"


def main() -> None:
    if sys.argv[1:2] == ["--alone"]:
        serve(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a transformers folder; by default one made from the demo model")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    args = parser.parse_args()
    folder = args.folder or transformers_folder(MODEL)
    title = f"Transformers: {folder.name} in {args.dtype}, {TOKENS} tokens, {args.rounds} rounds"
    with session(title), closing(Ours(folder, args.dtype)) as ours, closing(Alone(folder, args.dtype)) as alone:
        sides: list[Callable[[int], float]] = [ours.answer, alone.answer, ours.turn, alone.turn, ours.together]
        for side in sides:
            side(-1)  # the first ones fill caches
        report([[side(number) for side in sides] for number in range(args.rounds)])


def first_turn(number: int) -> str:
    """Of LONG tokens, unlike those of another round from the beginning on."""
    return f"{number + 10} " + "The moon is bright tonight and the sea is calm. " * (LONG // 11)


class Ours:
    """The worker with the model loaded."""

    def __init__(self, folder: Path, dtype: str) -> None:
        loader = find_loader("Transformers")
        settings = resolve(loader, model={}, saved={}, flags={}, form={"bf16": dtype == "bfloat16"})
        self._worker = WorkerProcess()
        self._call("load", engine=loader.engine, path=str(folder), options=option_values(settings))

    def _call(self, operation: str, **args: Any) -> Any:
        return next(event for event in self._worker.events(operation, **args) if isinstance(event, Result)).value

    def close(self) -> None:
        self._worker.close()

    def answer(self, number: int) -> float:
        """Tokens a second."""
        self._call("forget")
        began = time.perf_counter()
        self._generate(f"{PROMPT} {number}", TOKENS)
        return TOKENS / (time.perf_counter() - began)

    def _generate(self, prompt: str, tokens: int) -> float:
        """Until the first piece of text, in seconds; it reads all of them."""
        params = generation_settings.resolve({"temperature": 0, "max_new_tokens": tokens, "ban_eos_token": True})
        began, first = time.perf_counter(), 0.0
        for event in self._worker.events("generate", prompt=prompt, params=params):
            if isinstance(event, Text) and not first:
                first = time.perf_counter() - began
            if isinstance(event, Done) and event.completion_tokens != tokens:
                sys.exit(f"The answer had {event.completion_tokens} tokens: no prompt for this measurement.")
        return first

    def turn(self, number: int) -> float:
        """Seconds to the first token of a second turn."""
        self._call("forget")
        self._generate(first_turn(number), 1)
        return self._generate(first_turn(number) + QUESTION, 1)

    def together(self, number: int) -> float:
        """Tokens a second of all."""
        self._call("forget")
        prompts = [f"{PROMPT} {number} {client}" for client in range(CLIENTS)]
        clients = [threading.Thread(target=self._generate, args=(prompt, TOKENS)) for prompt in prompts]
        began = time.perf_counter()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        return CLIENTS * TOKENS / (time.perf_counter() - began)


class Alone:
    """transformers in a process of its own; its threads are as free as those of our worker."""

    def __init__(self, folder: Path, dtype: str) -> None:
        asked = json.dumps({"folder": str(folder), "dtype": dtype})
        command = [sys.executable, __file__, "--alone", asked]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, *words: object) -> float:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(words) + "\n")
        self._child.stdin.flush()
        return float(self._child.stdout.readline())

    def answer(self, number: int) -> float:
        return TOKENS / self._ask("answer", f"{PROMPT} {number}")

    def turn(self, number: int) -> float:
        return self._ask("turn", first_turn(number), QUESTION)

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()


def serve(asked: dict[str, str]) -> None:
    """The child: seconds for each thing asked for, a line each."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

    tokenizer = AutoTokenizer.from_pretrained(asked["folder"])
    model = AutoModelForCausalLM.from_pretrained(asked["folder"], dtype=getattr(torch, asked["dtype"]))

    def answer(prompt: str) -> None:
        inputs = tokenizer(prompt, return_tensors="pt")
        model.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)

    def prepare(first: str) -> Any:
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            model(**tokenizer(first, return_tensors="pt"), past_key_values=cache, logits_to_keep=1)
        return cache

    def go_on(cache: Any, question: str) -> str:
        new = tokenizer(question, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=new, past_key_values=cache, logits_to_keep=1).logits
        return str(tokenizer.decode(logits[0, -1].argmax()))

    for line in sys.stdin:
        what, *words = json.loads(line)
        cache = prepare(words[0]) if what == "turn" else None
        began = time.perf_counter()
        if cache is None:
            answer(words[0])
        else:
            go_on(cache, words[1])
        print(time.perf_counter() - began, flush=True)


def report(rounds: list[list[float]]) -> None:
    answers, bare, turns, by_hand, together = (list(column) for column in zip(*rounds, strict=True))
    pairs = {
        "decode, tokens a second": (answers, bare),
        "second turn, seconds to the first token": (turns, by_hand),
        f"{CLIENTS} at once to one, tokens a second": (together, answers),
    }
    rows = []
    for name, (ours, theirs) in pairs.items():
        ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        rows.append((name, *map(statistics.median, (ours, theirs, ratios)), min(ratios), max(ratios)))
    table(["", "ours", "against", "ratio", "lowest", "highest"], rows)
    decode, turn, batch = (row[3] for row in rows)
    verdict("Decode, to generate()", f"{decode:.2f}", f"{DECODE_FLOOR} at least", decode >= DECODE_FLOOR)
    verdict("Second turn, to a cache kept by hand", f"{turn:.2f}", f"{TURN_FLOOR} at most", turn <= TURN_FLOOR)
    verdict(f"{CLIENTS} at once, to one alone", f"{batch:.2f}", f"{BATCH_FLOOR} at least", batch >= BATCH_FLOOR)


if __name__ == "__main__":
    main()
