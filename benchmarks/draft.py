"""Would a prompt-lookup draft be faster? Guessing the next tokens from where the last two occurred before.

Answers of the model to several chats are gone through token by token: where the last NGRAM tokens occurred earlier in
prompt or answer, what followed there is the guess; as many of its tokens as the model then really said would have been
had for the price of one batch. What batches of each size cost is measured in the same run, at a context of 300 tokens.
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
GUESSES = (1, 2, 3, 5)
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
    told = explain(args.model)
    asked = load_arguments(told)
    with session(f"Prompt lookup: {args.model.name}, {NGRAM} tokens looked up, answers of {TOKENS}"):
        run = subprocess.run(
            [sys.executable, __file__, "--child", json.dumps(asked)], check=True, stdout=subprocess.PIPE
        )
    report(json.loads(run.stdout))


def measure(asked: dict[str, Any]) -> Any:
    """What batches cost, in seconds by size, and the (prompt, answer) tokens of every chat."""
    from modules.engines.llamacpp.batch import Batch
    from modules.engines.llamacpp.engine import LlamaCpp

    engine = LlamaCpp(Path(asked["path"]), asked["options"], lambda progress: None)
    said: dict[str, list[Any]] = {}
    for kind, questions in CHATS.items():
        for question in questions:
            prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            params = generation_settings.resolve({"temperature": 0.0, "max_new_tokens": TOKENS})
            engine.submit(1, engine.tokenize(prompt, params), params)
            text = ""
            while not engine.idle:
                text += "".join(getattr(event, "text", "") for _, event in engine.step())
            said.setdefault(kind, []).append((engine.encode(prompt), engine.encode(text, add_special=False)))
    engine.forget()
    batch = Batch(512)
    sizes = [1, *(guess + 1 for guess in GUESSES)]
    costs: dict[int, list[float]] = {size: [] for size in sizes}
    for begin in range(0, CONTEXT, 100):
        batch.clear()
        batch.add(array("i", range(1000 + begin, 1100 + begin)), begin, 0, False)
        engine.model.decode(batch)
    for _ in range(REPEATS):
        for size in sizes:
            batch.clear()
            for place in range(size):
                batch.add_one(2000 + place, CONTEXT + place, 0)
            began = time.perf_counter()
            engine.model.decode(batch)
            costs[size].append(time.perf_counter() - began)
            engine.model.truncate(0, CONTEXT)
    return {"costs": {size: statistics.median(times) for size, times in costs.items()}, "said": said}


def report(measured: Any) -> None:
    costs = {int(size): seconds for size, seconds in measured["costs"].items()}
    rows = []
    for kind, answers in measured["said"].items():
        for guess in GUESSES:
            usual = sum(len(answer) for _, answer in answers) * costs[1]
            drafted = sum(seconds(prompt, answer, guess, costs) for prompt, answer in answers)
            rows.append((kind, guess, costs[guess + 1] / costs[1], usual / drafted))
    table(["answers", "tokens guessed", "price of that batch", "speed to that without"], rows)
    best = max(row[3] for row in rows if row[0] == "chat")
    verdict("Chat, the best", f"{best:.2f}", "more than 1.00", best > 1)


def seconds(prompt: list[int], answer: list[int], guess: int, costs: dict[int, float]) -> float:
    """What the whole answer costs if up to `guess` tokens are guessed before each batch."""
    text = list(prompt)
    total, place = 0.0, 0
    while place < len(answer):
        guessed = lookup(text, guess)
        right = 0
        while right < len(guessed) and place + right < len(answer) and guessed[right] == answer[place + right]:
            right += 1
        total += costs[guess + 1] if guessed else costs[1]
        text += answer[place : place + right + 1]
        place += right + 1
    return total


def lookup(text: list[int], guess: int) -> list[int]:
    """What followed the last occurrence of the last NGRAM tokens before this one."""
    key = text[-NGRAM:]
    for place in range(len(text) - NGRAM - 1, -1, -1):
        if text[place : place + NGRAM] == key:
            return text[place + NGRAM : place + NGRAM + guess]
    return []


if __name__ == "__main__":
    main()
