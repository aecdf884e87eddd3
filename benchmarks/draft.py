"""Speed of answers with draft tokens relative to the same answers without, alternating in one worker.

Chat, rewriting (an answer that repeats most of a text) and quoting code, at temperature 0: the tokens after the first,
by the worker's own clock. `--draft-model` measures a draft model instead of prompt lookup, in two workers. Where the
texts differ, the answer with drafts is generated again, token by token, with a grammar that allows nothing else: the
largest difference in logprob between the best token and the answer's must be within the bound of `bound.py`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from decode_busy import busy
from figures import session, table, verdict
from program import MODEL, ROOT

sys.path.insert(0, str(ROOT))
from modules.core.events import Done
from modules.options.option import Value
from modules.runtime.core_binding import CoreBinding
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import load
from tests.support.answers import Answer, answer, forget, together
from tests.support.llama_requests import MAX_DEVIATION, largest_deviation

MIN_SPEEDUP = {"chat": 0.98, "rewriting": 1.4, "quoting code": 1.4}
LOOKUP = 10
TOKENS = 200
ROUNDS = 3
CONTEXT = 4096
BUSY_SHARE = 0.4
TEXT = (
    "The lighthouse at the end of the bay was built in 1862. Its keeper, an old man named Tomas, lit the lamp each "
    "evening and wrote down the names of all the ships that passed. In winter the sea froze, and no ship came. Then he "
    "mended his nets, carved small boats of driftwood and read the letters of his sister, who lived beyond the hills. "
    "One night in March a storm broke the ice, and a schooner with torn sails drifted to the rocks. Tomas rang the "
    "bell until his hands bled. Eleven sailors reached the shore, and every year they sent him a barrel of apples."
)
CODE = '''def read_config(path, default=None):
    """Return the settings in a file, or the default if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    except FileNotFoundError:
        return default
    for key, value in settings.items():
        if not isinstance(value, (str, int, float)):
            raise ValueError(f"{key} has an invalid value")
    return settings
'''
QUESTIONS = {
    "chat": (
        ("Tell me about the moon.", ""),
        ("How do I bake bread?", ""),
        ("Give me five tips for sleeping well.", ""),
        ("What is a prime number?", ""),
    ),
    "rewriting": (
        (f"Repeat this text exactly: {TEXT}", ""),
        (f"Correct the spelling of this text: {TEXT}", ""),
    ),
    "quoting code": (
        (f"Repeat this code exactly:\n\n```python\n{CODE}```", "```python\n"),
        (f"Add a comment to this function and print it again:\n\n```python\n{CODE}```", "```python\n# Settings\n"),
    ),
}
"""Questions, and the beginnings of their answers."""


@dataclass(frozen=True)
class Pair:
    """The same answer without and with drafts, by the worker's own clock."""

    plain: Answer
    drafted: Answer

    @property
    def speedup(self) -> float:
        return _seconds_per_token(self.plain.done) / _seconds_per_token(self.drafted.done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--draft-model", type=Path, help="a draft model beside it, instead of prompt lookup")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--lookup", type=int, default=LOOKUP, help="draft tokens at most")
    parser.add_argument("--at-once", type=int, default=1, help="copies of each question that are answered at once")
    parser.add_argument("--busy", action="store_true", help="beside a program that is busy 40 %% of the time")
    args = parser.parse_args()
    source = f"draft model {args.draft_model.name}" if args.draft_model else f"prompt lookup of {args.lookup} tokens"
    title = f"{source}: {args.model.name}, answers of {TOKENS} tokens, {args.at_once} at once"
    with session(title), ExitStack() as stack:
        if args.busy:
            stack.enter_context(busy(BUSY_SHARE))
        options = {"n_ctx": CONTEXT, "parallel": max(args.at_once, 1)}
        cores = CoreBinding()
        plain = _started(stack, cores, args.model, options)
        drafting, settings = plain, {"prompt_lookup_num_tokens": args.lookup}
        if args.draft_model:
            draft = {"model_draft": args.draft_model.name}
            drafting, settings = _started(stack, cores, args.model, {**options, **draft}), {}
        pairs = measure(plain, drafting, settings, args.rounds, args.at_once)
        report(pairs)
        check_texts(plain, pairs)


def _started(stack: ExitStack, cores: CoreBinding, model: Path, options: Mapping[str, Value]) -> WorkerProcess:
    """Return a worker with the model, whose threads have the cores as in the program."""
    worker = stack.enter_context(closing(WorkerProcess(waiting=cores.waiting)))
    load(worker, model, **options)
    cores.bind(worker)
    return worker


def measure(
    plain: WorkerProcess, drafting: WorkerProcess, settings: Mapping[str, int], rounds: int, at_once: int
) -> dict[str, list[tuple[str, Pair]]]:
    """Return (prompt, pair) of all answers, by kind of question."""
    measured: dict[str, list[tuple[str, Pair]]] = {kind: [] for kind in QUESTIONS}
    for number in range(rounds):
        for kind, questions in QUESTIONS.items():
            for question, beginning in questions:
                prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{beginning}"
                sides = [(plain, {}), (drafting, settings)]
                answers = [_ask(*side, prompt, at_once) for side in (sides if number % 2 else sides[::-1])]
                both = answers if number % 2 else answers[::-1]
                measured[kind].append((prompt, Pair(*both)))
    return measured


def _ask(worker: WorkerProcess, settings: Mapping[str, int], prompt: str, at_once: int) -> Answer:
    if at_once == 1:
        return answer(worker, prompt, max_new_tokens=TOKENS, **settings)
    return together(worker, [prompt] * at_once, max_new_tokens=TOKENS, **settings)[0]


def _seconds_per_token(done: Done) -> float:
    return done.decode_seconds / (done.completion_tokens - 1)


def report(measured: Mapping[str, list[tuple[str, Pair]]]) -> None:
    rows: list[tuple[str, float, float, float, float, str]] = []
    for kind, pairs in measured.items():
        speedups = [pair.speedup for _, pair in pairs]
        drafted = sum(pair.drafted.done.drafted_tokens for _, pair in pairs)
        accepted = sum(pair.drafted.done.accepted_tokens for _, pair in pairs)
        rate = statistics.median(1 / _seconds_per_token(pair.plain.done) for _, pair in pairs)
        rows.append((kind, rate, statistics.median(speedups), min(speedups), max(speedups), f"{accepted}/{drafted}"))
    table(["answers", "tokens/s without", "speedup", "lowest", "highest", "accepted"], rows)
    for kind, _, speedup, *_ in rows:
        limit = MIN_SPEEDUP[kind]
        verdict(f"Speedup, {kind}", f"{speedup:.2f}", f"{limit:.2f} at least", speedup >= limit)


def check_texts(worker: WorkerProcess, measured: Mapping[str, list[tuple[str, Pair]]]) -> None:
    pairs = [(prompt, pair) for kind in measured.values() for prompt, pair in kind]
    different = {(prompt, pair.drafted.text) for prompt, pair in pairs if pair.drafted.text != pair.plain.text}
    deviations = [0.0]
    for prompt, text in different:
        forget(worker)
        deviations.append(largest_deviation(worker, prompt, text))
    print(f"{len(different)} of {len(pairs)} texts differ from the one without drafts")
    verdict("Deviation", f"{max(deviations):.2f}", f"{MAX_DEVIATION} at most", max(deviations) <= MAX_DEVIATION)


if __name__ == "__main__":
    main()
