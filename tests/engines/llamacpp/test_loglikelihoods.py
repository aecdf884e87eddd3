"""Log-likelihoods of windows by llama.cpp: those that generation reports, beside conversations in the KV cache."""

from __future__ import annotations

import json
import queue
import threading
from pathlib import Path
from statistics import fmean

import pytest

from modules.core.errors import OptionError
from modules.core.events import Event, Result
from modules.core.prompt import Prompt
from modules.core.worker_errors import PromptTooLong, ReferenceUnusable
from modules.engines.loglikelihoods import Loglikelihoods
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import LLAMA
from tests.support.answers import Answer, answer, ask, forget, parameters
from tests.support.echo_plans import wait_until
from tests.support.hf_folder import read_metadata
from tests.support.hf_logits import logits_of
from tests.support.llama_library import run_checked
from tests.support.llama_requests import LONG, N_CTX, THREADS, chat, describe_cache
from tests.support.log_likelihoods import evaluate, expected_logprobs
from tests.support.tiny_model import tiny_gguf_bytes
from tests.support.worker_pool import WorkerPool

ROUNDING = 1e-4
UNUSED, PADDING = 5, 100
"""The type of an unused token in GGUF files, and how many of them end the vocabulary of one."""


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


def test_a_window_and_a_prompt_compete_for_cells(
    shallow_llama: WorkerProcess, tokens: list[int], subtests: pytest.Subtests
) -> None:
    """Which of them finds no cell left depends on how long the prompt of a generation under way is."""
    window = (tokens * 2)[:750]
    alone = evaluate(shallow_llama, window, 1)
    for words in (1, 60):
        with subtests.test(words=words):
            forget(shallow_llama)
            inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
            params = parameters(max_new_tokens=100, ban_eos_token=True)
            first = shallow_llama.events("generate", prompt=chat("ink " * words), params=params)
            next(first)  # it has begun, so that later steps are short
            shallow_llama.start("loglikelihoods", inbox.put, tokens=window, first=1)
            wait_until(lambda: sum(slot["busy"] for slot in describe_cache(shallow_llama)["slots"]) == 2)
            prompt = Prompt("", tokens=tuple(tokens[-450:]))
            assert answer(shallow_llama, prompt, max_new_tokens=100, ban_eos_token=True).done.completion_tokens == 100
            assert Answer(list(first)).done.completion_tokens == 100
            end = inbox.get(timeout=60)
            assert isinstance(end, Result)
            found = Loglikelihoods.from_json(end.value)
            assert found.logprobs == pytest.approx(alone.logprobs, abs=0.5)  # Q4 weights in other batches


def test_cancelled_windows_leave_their_slots(tiny_llama: WorkerProcess, tokens: list[int]) -> None:
    window = {"tokens": tokens, "first": 1}
    for _ in range(6):
        tiny_llama.cancel(tiny_llama.start("loglikelihoods", lambda event: None, **window))
    assert evaluate(tiny_llama, tokens[:10]).logprobs  # `check_idle` follows


def test_a_window_and_a_generation_share_the_only_slot(tiny: Path, workers: WorkerPool, tokens: list[int]) -> None:
    options = {"n_ctx": 700, "parallel": 1, "threads": THREADS, "threads_batch": THREADS}
    with workers.lease(tiny, LLAMA, **options) as pooled:
        worker = pooled.worker
        alone = evaluate(worker, tokens, 500)
        replies: list[Answer] = []
        generating = threading.Thread(
            target=lambda: replies.append(answer(worker, chat("ink"), max_new_tokens=200, ban_eos_token=True))
        )
        generating.start()
        results = [evaluate(worker, tokens, 500) for _ in range(3)]
        generating.join()
        assert replies[0].done.completion_tokens == 200
        assert all(result.logprobs == pytest.approx(alone.logprobs, abs=0.05) for result in results)


def test_padding_of_the_vocabulary_is_not_stored(smollm2: Path, workers: WorkerPool, tmp_path: Path) -> None:
    metadata = read_metadata(smollm2)
    kinds = metadata["tokenizer.ggml.token_type"]
    metadata["tokenizer.ggml.token_type"] = [*kinds[:-PADDING], *[UNUSED] * PADDING]
    (tmp_path / "padded.gguf").write_bytes(tiny_gguf_bytes(metadata))
    with workers.lease(tmp_path / "padded.gguf", LLAMA, n_ctx=64, threads=THREADS) as pooled:
        evaluate(pooled.worker, [5, 6, 7], 1, keep=tmp_path / "kept")
    assert (tmp_path / "kept").stat().st_size == 48 + 2 * 4 * (len(kinds) - PADDING)


def test_the_mean_is_that_of_transformers_on_the_same_weights(
    tiny_llama: WorkerProcess, tiny_folder: Path, tokens: list[int]
) -> None:
    reference = expected_logprobs(logits_of(tokens, {"tiny": tiny_folder}, {})["tiny"], tokens)
    assert fmean(evaluate(tiny_llama, tokens).logprobs) == pytest.approx(reference.mean(), abs=0.002)


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
