"""Simulated speed of speculative decoding with prompt lookup: draft tokens that followed the last two tokens before.

Answers of the model to several chats are replayed token by token. Where the last NGRAM tokens occurred earlier in the
prompt or the answer, the tokens that followed there are the draft; those that match the real answer would have been
accepted for the cost of one batch. The cost of batches of each size is measured in the same run, at a context of 300
tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from array import array
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from layers import load_arguments
from program import MODEL, ROOT, explain

sys.path.insert(0, str(ROOT))
from modules.loaders import generation_settings

NGRAM = 2
DRAFT_LENGTHS = (1, 2, 3, 5)
TOKENS = 200
REPEATS = 25
CONTEXT = 300
TEXT = (
    "The lighthouse at the end of the bay was built in 1862. Its keeper, an old man named Tomas, lit the lamp each "
    "evening and wrote down the names of all the ships that passed. In winter the sea froze, and no ship came."
)
CHATS = {
    "chat": [
        "Tell me about the moon.",
        "How do I bake bread?",
        "Write a short poem about rain.",
        "What is a prime number?",
    ],
    "rewriting": [f"Repeat this text exactly: {TEXT}", f"Correct the spelling of this text: {TEXT}"],
    "summary": [f"Summarise this text: {TEXT}", f"Who is named in this text, and what did they do? {TEXT}"],
}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measure(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    args = parser.parse_args()
    plan = explain(args.model)
    request = json.dumps(load_arguments(plan))
    with session(f"Prompt lookup: {args.model.name}, {NGRAM} tokens looked up, answers of {TOKENS}"):
        run = subprocess.run([sys.executable, __file__, "--child", request], check=True, stdout=subprocess.PIPE)
    report(json.loads(run.stdout))


def measure(request: dict[str, Any]) -> Any:
    """Return the seconds that batches take, by size, and the (prompt, answer) tokens of all chats."""
    from modules.engines.llamacpp.batch import Batch
    from modules.engines.llamacpp.engine import LlamaCpp

    engine = LlamaCpp(Path(request["path"]), request["options"], lambda progress: None)
    chats: dict[str, list[Any]] = {}
    encode = engine.questions["encode"]
    for kind, questions in CHATS.items():
        for question in questions:
            prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            params = generation_settings.resolve({"temperature": 0.0, "max_new_tokens": TOKENS})
            engine.submit(1, engine.tokenize(prompt, params), params)
            text = ""
            while not engine.idle:
                text += "".join(getattr(event, "text", "") for _, event in engine.step())
            chats.setdefault(kind, []).append((encode(text=prompt), encode(text=text, add_special=False)))
    engine.forget()
    batch = Batch(512)
    sizes = [1, *(length + 1 for length in DRAFT_LENGTHS)]
    costs: dict[int, list[float]] = {size: [] for size in sizes}
    for begin in range(0, CONTEXT, 100):
        batch.clear()
        batch.add(array("i", range(1000 + begin, 1100 + begin)), begin, 0, False)
        engine.model.decode(batch)
    for _ in range(REPEATS):
        for size in sizes:
            batch.clear()
            for index in range(size):
                batch.add_one(2000 + index, CONTEXT + index, 0)
            began = time.perf_counter()
            engine.model.decode(batch)
            costs[size].append(time.perf_counter() - began)
            engine.model.truncate(0, CONTEXT)
    return {"costs": {size: statistics.median(times) for size, times in costs.items()}, "chats": chats}


def report(measured: Any) -> None:
    costs = {int(size): seconds for size, seconds in measured["costs"].items()}
    rows = []
    for kind, answers in measured["chats"].items():
        for length in DRAFT_LENGTHS:
            without = sum(len(answer) for _, answer in answers) * costs[1]
            with_draft = sum(drafted_seconds(prompt, answer, length, costs) for prompt, answer in answers)
            rows.append((kind, length, costs[length + 1] / costs[1], without / with_draft))
    table(["answers", "draft tokens", "cost of that batch", "speedup"], rows)
    best = max(row[3] for row in rows if row[0] == "chat")
    verdict("Best speedup on chat", f"{best:.2f}", "more than 1.00", best > 1)


def drafted_seconds(prompt: list[int], answer: list[int], length: int, costs: dict[int, float]) -> float:
    """Return the time for the complete answer with up to `length` draft tokens before each batch."""
    text = list(prompt)
    total, position = 0.0, 0
    while position < len(answer):
        draft = lookup(text, length)
        accepted = 0
        for drafted, actual in zip(draft, answer[position:], strict=False):
            if drafted != actual:
                break
            accepted += 1
        total += costs[length + 1] if draft else costs[1]
        text += answer[position : position + accepted + 1]
        position += accepted + 1
    return total


def lookup(text: list[int], length: int) -> list[int]:
    """Return up to `length` tokens that followed the previous occurrence of the last NGRAM tokens."""
    key = text[-NGRAM:]
    for position in range(len(text) - NGRAM - 1, -1, -1):
        if text[position : position + NGRAM] == key:
            return text[position + NGRAM : position + NGRAM + length]
    return []


if __name__ == "__main__":
    main()
