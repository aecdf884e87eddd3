"""The transformers engine with a real model: its answers equal those of `generate`, also if cached or batched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.events import Progress, Waiting
from modules.engines.hf.limits import MAX_BATCH, MIN_BATCH
from modules.runtime.worker_process import WorkerProcess
from modules.system import cpu_memory
from tests.conftest import LLAMA, TRANSFORMERS
from tests.support.answers import Crowd, answer, ask, forget, parameters, together
from tests.support.hf_reference import TOP, transformers_answers
from tests.support.worker_pool import Pooled, WorkerPool

STORY = "Once upon a time, in a small village by the sea,"
CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
    "<|im_start|>user\nWrite three sentences about the moon.<|im_end|>\n<|im_start|>assistant\n"
)
CODE = "def fibonacci(n):\n    "
FRANCE = "The capital of France is"
PROMPTS = [STORY, CHAT, CODE]
TOKENS = 16

BITSANDBYTES = {"dtype": "bfloat16", "device_map": {"": "cpu"}}
FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float16"}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float32": ({}, {"dtype": "float32"}),
    "bfloat16": ({"bf16": True}, {"dtype": "bfloat16"}),
    "8 bits": ({"load_in_8bit": True}, BITSANDBYTES | {"quantization_config": {"load_in_8bit": True}}),
    "4 bits": ({"load_in_4bit": True}, BITSANDBYTES | {"quantization_config": FOUR_BITS}),
    "eager": ({"use_eager_attention": True}, {"dtype": "float32", "attn_implementation": "eager"}),
}
"""Load options, and the equivalent arguments of `from_pretrained`."""


@pytest.fixture
def pooled(workers: WorkerPool, smollm2_folder: Path) -> Iterator[Pooled]:
    """A worker with the demo model in float32, so that logits do not depend on how many tokens one pass evaluates."""
    with workers.lease(smollm2_folder, TRANSFORMERS) as leased:
        yield leased


@pytest.fixture
def hf(pooled: Pooled) -> WorkerProcess:
    """A worker with the demo model, for tests that depend on its words."""
    return pooled.worker


@pytest.fixture
def shallow_hf(workers: WorkerPool, shallow_folder: Path) -> Iterator[WorkerProcess]:
    """A worker with the first layers of the demo model, which repeat themselves."""
    with workers.lease(shallow_folder, TRANSFORMERS) as leased:
        yield leased.worker


@pytest.fixture
def tiny_hf(workers: WorkerPool, tiny_folder: Path) -> Iterator[WorkerProcess]:
    with workers.lease(tiny_folder, TRANSFORMERS) as leased:
        yield leased.worker


# -- compared with transformers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_greedy_decoding_equals_generate_of_transformers(workers: WorkerPool, shallow_folder: Path, form: str) -> None:
    options, arguments = FORMS[form]
    prompts, tokens = (PROMPTS[1:], 6) if "bits" in form else (PROMPTS, TOKENS)  # few bits are slow on a CPU
    expected = transformers_answers(shallow_folder, prompts, tokens, **arguments)
    with workers.lease(shallow_folder, TRANSFORMERS, **options) as leased:
        for prompt, theirs in zip(prompts, expected, strict=True):
            forget(leased.worker)
            ours = answer(leased.worker, prompt, max_new_tokens=tokens, top_logprobs=TOP)
            assert ours.text == theirs["text"]
            assert ours.done.completion_tokens == len(theirs["tokens"])
            for chances, best in zip(ours.logprobs, theirs["logprobs"], strict=False):
                assert [candidate.logprob for candidate in chances.top] == pytest.approx(best, abs=1e-4)
                assert chances.chosen.logprob == chances.top[0].logprob, "greedy decoding takes the most likely token"


def test_tokens_and_the_first_words_of_an_answer_equal_those_of_llama_cpp(
    hf: WorkerProcess, workers: WorkerPool, smollm2: Path
) -> None:
    with workers.lease(smollm2, LLAMA, n_ctx=512) as llamacpp:
        for text in (*PROMPTS, FRANCE, "猫と犬 🇫🇷 in 2024", "  two  spaces\n\n\ttab", "It's 12345.67!"):
            assert ask(hf, "encode", text=text) == ask(llamacpp.worker, "encode", text=text)
        assert answer(hf, FRANCE, max_new_tokens=5).text == answer(llamacpp.worker, FRANCE, max_new_tokens=5).text


# -- loading -----------------------------------------------------------------------------------------------------------


def test_loading_reports_its_progress(pooled: Pooled) -> None:
    progress = [event for event in pooled.events if isinstance(event, Progress)]
    done = [event.done for event in progress]
    assert {event.stage for event in progress} == {"weights"}
    assert done == sorted(done)
    assert len(done) > 50
    assert done[-1] == 1


def test_info_has_the_values_of_the_model_files(pooled: Pooled) -> None:
    assert pooled.info.context_length == 8192
    tokens = pooled.info.special_tokens
    assert (tokens["bos_token"], tokens["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>" in pooled.info.chat_template
    assert pooled.info.notes == ()


def test_info_has_the_resident_memory_of_the_worker(pooled: Pooled) -> None:
    forget(pooled.worker)  # drop the caches of earlier tests
    assert pooled.info.memory == pytest.approx(cpu_memory.resident_memory(pooled.worker.pid), rel=0.1)


# -- the prefix cache --------------------------------------------------------------------------------------------------


def test_alternating_conversations_all_stay_in_the_prefix_cache(tiny_hf: WorkerProcess) -> None:
    forget(tiny_hf)
    for _ in range(2):
        results = [
            answer(tiny_hf, prompt, max_new_tokens=2).done for prompt in (STORY, CHAT, "The capital of Italy is")
        ]
    assert [done.prompt_tokens - done.cached_tokens for done in results] == [1, 1, 1]


def test_a_short_common_prefix_does_not_truncate_a_long_conversation(tiny_hf: WorkerProcess) -> None:
    forget(tiny_hf)
    long = STORY + " there lived a fisherman who had three daughters and a boat."
    answer(tiny_hf, long, max_new_tokens=2)
    answer(tiny_hf, "Once upon a dream", max_new_tokens=2)
    again = answer(tiny_hf, long, max_new_tokens=2).done
    assert again.cached_tokens == again.prompt_tokens - 1


# -- the end of an answer ----------------------------------------------------------------------------------------------


def test_a_banned_eos_token_does_not_end_the_answer(hf: WorkerProcess) -> None:
    question = CHAT.replace("Write three sentences about the moon.", "Say yes.")
    short = answer(hf, question, max_new_tokens=60)
    assert short.done.reason == "stop"
    limit = short.done.completion_tokens + 5
    assert answer(hf, question, max_new_tokens=limit, ban_eos_token=True).done.completion_tokens == limit


def test_special_tokens_are_shown_on_request(tiny_hf: WorkerProcess) -> None:
    params: dict[str, Any] = {"logit_bias": {"0": 100}, "max_new_tokens": 2}
    assert answer(tiny_hf, STORY, **params).text == ""
    assert answer(tiny_hf, STORY, skip_special_tokens=False, **params).text == "<|endoftext|>" * 2


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_banned_tokens_are_never_sampled_and_strongly_biased_ones_always(hf: WorkerProcess) -> None:
    (paris,) = ask(hf, "encode", text=" Paris")
    (rome,) = ask(hf, "encode", text=" Rome")
    params: dict[str, Any] = {"max_new_tokens": 1}
    assert answer(hf, FRANCE, **params).text == " Paris"
    assert answer(hf, FRANCE, custom_token_bans=str(paris), **params).text != " Paris"
    assert answer(hf, FRANCE, logit_bias={str(rome): 100}, **params).text == " Rome"


def test_an_answer_follows_the_grammar(tiny_hf: WorkerProcess) -> None:
    constrained = answer(tiny_hf, "Is the sky blue?", grammar_string='root ::= " yes" | " no"')
    assert constrained.text in (" yes", " no")
    assert constrained.done.reason == "stop"


def test_guidance_moves_the_answer_away_from_the_negative_prompt(tiny_hf: WorkerProcess) -> None:
    plain = answer(tiny_hf, FRANCE)
    assert answer(tiny_hf, FRANCE, guidance_scale=1.5, negative_prompt=FRANCE).text == plain.text, (
        "away from the same prompt"
    )
    guided = answer(tiny_hf, FRANCE, guidance_scale=2.5, negative_prompt="The capital of Italy is")
    assert guided.text != plain.text


def test_prompt_lookup_does_not_change_the_answer(shallow_hf: WorkerProcess) -> None:
    # At least 8 of the 24 tokens of every answer are draft tokens. Tokens of spaces alone are banned, so that the text
    # is tokenized into the tokens that were sampled.
    prompt = "The cat and the cat and the cat and the cat and the"
    bans = ",".join(str(token) for space in (" ", "  ") for token in ask(shallow_hf, "encode", text=space))
    for changes in ({}, {"temperature": 1.0, "seed": 5}, {"repetition_penalty": 1.2}):
        params: dict[str, Any] = {"custom_token_bans": bans, **changes}
        forget(shallow_hf)
        plain = answer(shallow_hf, prompt, max_new_tokens=24, top_logprobs=1, **params)
        forget(shallow_hf)
        drafted = answer(shallow_hf, prompt, max_new_tokens=24, top_logprobs=1, prompt_lookup_num_tokens=4, **params)
        assert drafted.text == plain.text
        assert drafted.done.completion_tokens == plain.done.completion_tokens
        again = answer(shallow_hf, prompt + plain.text, max_new_tokens=1).done
        assert again.cached_tokens == again.prompt_tokens - 1 > 24


# -- several requests --------------------------------------------------------------------------------------------------


def test_answers_of_a_batch_equal_those_generated_alone(tiny_hf: WorkerProcess) -> None:
    prompts = [STORY, FRANCE, CODE, CHAT, "猫猫猫猫猫猫猫猫", "one"]
    forget(tiny_hf)
    expected = [answer(tiny_hf, prompt, max_new_tokens=12).text for prompt in prompts]
    forget(tiny_hf)
    assert [batched.text for batched in together(tiny_hf, prompts, max_new_tokens=12)] == expected
    assert [batched.text for batched in together(tiny_hf, prompts, max_new_tokens=12)] == expected, (
        "with the prefix cache"
    )


def test_requests_beyond_the_slots_report_that_they_wait(workers: WorkerPool, tiny_folder: Path) -> None:
    with workers.lease(tiny_folder, TRANSFORMERS) as leased:
        crowd, slots = Crowd(leased.worker), leased.info.slots
        calls = [crowd.ask(f"{number} {STORY}", max_new_tokens=40, ban_eos_token=True) for number in range(slots + 1)]
        received = [crowd.wait(call) for call in calls]
    assert MIN_BATCH <= slots <= MAX_BATCH
    assert [any(isinstance(event, Waiting) for event in events) for events in received] == [False] * slots + [True]


def test_a_cancelled_answer_ends_at_once(hf: WorkerProcess) -> None:
    long = hf.events("generate", prompt=STORY, params=parameters(max_new_tokens=0, ban_eos_token=True))
    next(long)
    long.close()  # type: ignore[attr-defined]
    began = time.monotonic()
    assert answer(hf, FRANCE, max_new_tokens=1).done.completion_tokens == 1
    assert time.monotonic() - began < 30, "8,000 tokens would take minutes"


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_a_long_prompt_reports_its_progress(tiny_hf: WorkerProcess) -> None:
    forget(tiny_hf)
    long = answer(tiny_hf, "tell" + " tell" * 1099, max_new_tokens=1)
    reported = [event.done for event in long.events if isinstance(event, Progress)]
    assert reported == pytest.approx([512 / 1100, 1024 / 1100])
