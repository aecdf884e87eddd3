"""Requests to a llama.cpp model that run together, and comparisons of their answers."""

from __future__ import annotations

import json
from typing import Any

from modules.runtime.worker_process import WorkerProcess
from tests.support.answers import Answer, answer, ask

THREADS = 1
N_CTX = 1024
TOPICS = ("the moon", "a river in spring", "how bread is made", "the number seven")
LONG = "".join(f"{number}. The {topic} again. " for number in range(40) for topic in ("sun", "sea"))
MAX_DEVIATION = 0.7
"""Upper bound of `largest_deviation` for an answer that no other conversation has affected; see benchmarks/bound.py."""

OPTIONS: dict[str, object] = {"n_ctx": N_CTX, "parallel": 4, "threads": THREADS, "threads_batch": THREADS}
WITH_LOGPROBS: dict[str, Any] = {"max_new_tokens": 30, "ban_eos_token": True, "top_logprobs": 20}
MAX_ROUNDING = 0.2
"""Another order of sums changes a log probability of the tiny model by up to 0.04, because the cache is in float16.
Other words before it make other tokens the most likely ones."""


def describe_cache(worker: WorkerProcess) -> Any:
    return ask(worker, "cache")


def check_idle(worker: WorkerProcess) -> None:
    """Fail if a slot is busy, or if llama.cpp's KV cache differs from our account of it."""
    told = describe_cache(worker)
    assert not any(slot["busy"] for slot in told["slots"])
    for slot in told["slots"]:
        assert slot["span"] == ([0, slot["cells"] - 1] if slot["cells"] else [-1, -1]), told


def chat(topic: str) -> str:
    return f"<|im_start|>user\nTell me about {topic}.<|im_end|>\n<|im_start|>assistant\n"


def assert_same_answer(answered: Answer, expected: Answer) -> None:
    """Fail unless log probabilities differ by rounding alone, as long as both texts are the same: they may diverge
    where two tokens are equally likely."""
    assert answered.done.completion_tokens == expected.done.completion_tokens
    for ours, theirs in zip(answered.logprobs, expected.logprobs, strict=True):
        found = {each.text: each.logprob for each in ours.top}
        for each in theirs.top[:10]:
            assert each.text in found
            assert abs(found[each.text] - each.logprob) < MAX_ROUNDING
        if ours.chosen.text != theirs.chosen.text:
            break


def largest_deviation(worker: WorkerProcess, prompt: str, text: str) -> float:
    """Return how far a token of `text` lies below the most likely one at most, in log probability."""
    said = answer(worker, prompt, max_new_tokens=0, grammar_string=f"root ::= {json.dumps(text)}", top_logprobs=1)
    assert said.text == text
    return max(chance.top[0].logprob - chance.chosen.logprob for chance in said.logprobs)
