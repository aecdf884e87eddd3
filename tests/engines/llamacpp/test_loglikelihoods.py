"""Log-likelihoods of windows by llama.cpp: those that generation reports, beside conversations in the KV cache."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from modules.core.errors import OptionError
from modules.core.worker_errors import PromptTooLong, ReferenceUnusable
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import LLAMA
from tests.support.answers import answer, ask, forget
from tests.support.llama_library import run_checked
from tests.support.llama_requests import LONG, N_CTX, THREADS, chat, describe_cache
from tests.support.log_likelihoods import evaluate
from tests.support.worker_pool import WorkerPool

ROUNDING = 1e-4


@pytest.fixture(scope="module")
def tokens(tiny_llama: WorkerProcess) -> list[int]:
    found: list[int] = ask(tiny_llama, "encode", text=LONG)
    return found[:600]


def test_the_log_likelihoods_of_an_answer_are_the_logprobs_that_generation_reports(tiny_llama: WorkerProcess) -> None:
    forget(tiny_llama)
    prompt = ask(tiny_llama, "encode", text=chat("the sea"))
    reply = answer(tiny_llama, chat("the sea"), max_new_tokens=20, ban_eos_token=True, top_logprobs=0)
    generated = [token.chosen for token in reply.logprobs]
    result = evaluate(tiny_llama, [*prompt, *(token.id for token in generated)], len(prompt))
    for ours, token in zip(result.logprobs, generated, strict=True):
        assert ours == pytest.approx(token.logprob, abs=1e-3)  # the cache is float16, and batches differ


def test_log_likelihoods_equal_those_of_low_level_calls(tiny: Path, workers: WorkerPool) -> None:
    options = {"n_ctx": N_CTX, "n_batch": 128, "threads": THREADS, "threads_batch": THREADS, "flash_attn": False}
    with workers.lease(tiny, LLAMA, **options) as pooled:
        tokens = ask(pooled.worker, "encode", text=LONG)[:300]
        result = evaluate(pooled.worker, tokens, 100)
    request = {"path": str(tiny), "tokens": tokens, "first": 100, "n_batch": 128, "n_ubatch": 128}
    program = "from tests.support import llama_loglikelihoods; llama_loglikelihoods.main()"
    expected = json.loads(run_checked(program, json.dumps(request)))
    for ours, theirs in zip(result.logprobs, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=ROUNDING)


def test_a_repetition_gives_the_same_numbers_also_beside_conversations(
    tiny_llama: WorkerProcess, tokens: list[int]
) -> None:
    forget(tiny_llama)
    alone = evaluate(tiny_llama, tokens, 1)
    answer(tiny_llama, LONG, max_new_tokens=5)
    assert evaluate(tiny_llama, tokens, 1) == alone


def test_conversations_in_the_kv_cache_survive(tiny_llama: WorkerProcess, tokens: list[int]) -> None:
    forget(tiny_llama)
    conversations = [f"{topic}: {LONG}"[:900] for topic in ("bread", "rivers", "moons", "sevens")]
    for conversation in conversations:
        answer(tiny_llama, conversation, max_new_tokens=2)
    evaluate(tiny_llama, (tokens * 2)[:N_CTX], 512)
    for conversation in conversations:
        done = answer(tiny_llama, conversation, max_new_tokens=2).done
        assert done.cached_tokens == done.prompt_tokens - 1
    assert all(slot["cells"] < 600 for slot in describe_cache(tiny_llama)["slots"])


def test_a_window_waits_for_cells_of_generations_and_they_take_its_own(
    tiny_llama: WorkerProcess, tokens: list[int]
) -> None:
    forget(tiny_llama)
    whole = (tokens * 2)[:N_CTX]
    alone = evaluate(tiny_llama, whole, 1000)
    replies = []

    def generate(topic: str) -> None:
        replies.append(answer(tiny_llama, chat(topic), max_new_tokens=400, ban_eos_token=True))

    threads = [threading.Thread(target=generate, args=(topic,)) for topic in ("ink", "tea")]
    for thread in threads:
        thread.start()
    beside = evaluate(tiny_llama, whole, 1000)
    for thread in threads:
        thread.join()
    assert [reply.done.completion_tokens for reply in replies] == [400, 400]
    assert beside.logprobs == pytest.approx(alone.logprobs, abs=0.05)  # other batches, a float16 cache


def test_a_model_does_not_diverge_from_itself_and_other_windows_are_refused(
    tiny_llama: WorkerProcess, tokens: list[int], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    evaluate(tiny_llama, tokens[:80], 40, keep=kept)
    compared = evaluate(tiny_llama, tokens[:80], 40, against=kept)
    assert max(map(abs, compared.kl)) < 1e-6
    assert compared.same_top == (True,) * 40
    with pytest.raises(ReferenceUnusable, match="other tokens"):
        evaluate(tiny_llama, tokens[1:81], 40, against=kept)


def test_bad_windows_are_refused(tiny_llama: WorkerProcess, tokens: list[int]) -> None:
    with pytest.raises(PromptTooLong):
        evaluate(tiny_llama, [5] * (N_CTX + 1))
    for bad in ([1, -1], [1, 1 << 20], [1]):
        with pytest.raises(OptionError):
            evaluate(tiny_llama, bad)
