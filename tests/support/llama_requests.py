"""Concurrent requests to a llama.cpp model, and comparisons of their answers."""

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
"""A different order of summation changes logprobs of the tiny model by up to 0.04, because the cache is float16.
A different context changes which tokens are the most likely."""


def describe_cache(worker: WorkerProcess) -> Any:
    return ask(worker, "cache")


def check_idle(worker: WorkerProcess) -> None:
    """Fail if a slot is busy, or if llama.cpp's KV cache differs from the scheduler's record of it."""
    cache = describe_cache(worker)
    assert not any(slot["busy"] for slot in cache["slots"])
    for slot in cache["slots"]:
        assert slot["span"] == ([0, slot["positions"] - 1] if slot["cells"] else [-1, -1]), cache


def chat(topic: str) -> str:
    return f"<|im_start|>user\nTell me about {topic}.<|im_end|>\n<|im_start|>assistant\n"


def assert_same_answer(actual: Answer, expected: Answer) -> None:
    """Fail unless logprobs differ by rounding only, up to the first token where the texts differ.

    Texts may diverge where two tokens are equally likely.
    """
    assert actual.done.completion_tokens == expected.done.completion_tokens
    for ours, theirs in zip(actual.logprobs, expected.logprobs, strict=True):
        logprobs = {token.id: token.logprob for token in ours.top}  # several tokens may have the same text
        for token in theirs.top[:10]:
            assert token.id in logprobs
            assert abs(logprobs[token.id] - token.logprob) < MAX_ROUNDING
        if ours.chosen.id != theirs.chosen.id:
            break


def largest_deviation(worker: WorkerProcess, prompt: str, text: str) -> float:
    """Return the largest difference in logprob between the most likely token and the token of `text`."""
    grammar = f"root ::= {json.dumps(text)}"
    forced = answer(worker, prompt, max_new_tokens=0, grammar_string=grammar, top_logprobs=1)
    assert forced.text == text
    return max(token.top[0].logprob - token.chosen.logprob for token in forced.logprobs)
