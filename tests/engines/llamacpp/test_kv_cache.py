"""The KV cache of the llama.cpp engine: reuse of prefixes, saving to main memory, and shifts with streaming_llm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.core.events import ENDS, Progress, Text
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import LLAMA
from tests.support.answers import Crowd, answer, ask, forget, together
from tests.support.llama_requests import (
    LONG,
    OPTIONS,
    TOPICS,
    WITH_LOGPROBS,
    assert_same_answer,
    chat,
    check_idle,
    describe_cache,
)
from tests.support.worker_pool import WorkerPool


def test_more_conversations_than_slots_all_reuse_their_earlier_turns(tiny_llama: WorkerProcess) -> None:
    """Conversations without a slot are saved in main memory."""
    chats = [f"{chat(f'{topic} and the {thing}')}" for topic in TOPICS for thing in ("old tree by the well", "cat")]
    chats = [
        text + "Well, that is a long story, and it begins on a winter's night in the north. " * 4 for text in chats
    ]
    (token,) = ask(tiny_llama, "encode", text=" and")  # its text is tokenized as the same token again
    answers = [answer(tiny_llama, text, max_new_tokens=10, logit_bias={str(token): 100.0}) for text in chats]
    assert describe_cache(tiny_llama)["saved"]
    for text, first in zip(chats, answers, strict=True):
        second = answer(tiny_llama, f"{text}{first.text} And so on", max_new_tokens=2)
        assert second.done.cached_tokens >= first.done.prompt_tokens + 8


def test_conversations_that_continue_at_the_same_time_all_reuse_their_own_cells(tiny_llama: WorkerProcess) -> None:
    """No conversation is evicted for one that begins just before it."""
    chats = [f"{chat(f'{topic} again')}It is known to everybody and needs no words." for topic in TOPICS]
    together(tiny_llama, chats, max_new_tokens=60, ban_eos_token=True)
    again = together(tiny_llama, chats, max_new_tokens=2)
    assert [reply.done.cached_tokens for reply in again] == [reply.done.prompt_tokens - 1 for reply in again]


def test_idle_conversations_are_saved_to_main_memory_while_another_decodes(tiny_llama: WorkerProcess) -> None:
    forget(tiny_llama)
    together(tiny_llama, [f"{chat(topic)} {LONG[:300]}" for topic in TOPICS], max_new_tokens=2)
    answer(tiny_llama, "Once upon a time", max_new_tokens=30, ban_eos_token=True)
    description = describe_cache(tiny_llama)
    assert [slot["cells"] > 0 for slot in description["slots"]].count(True) == 1
    assert len(description["saved"]) == 4


def test_a_common_prefix_is_evaluated_once(shallow_llama: WorkerProcess) -> None:
    prompts = [f"In common: {LONG}{ending}" for ending in ("One", "Two", "Three", "Four")]
    answers = together(shallow_llama, prompts, max_new_tokens=8)
    shared = ask(shallow_llama, "count", text=LONG) - 2
    cached = sorted(reply.done.cached_tokens for reply in answers)
    assert cached[0] < shared / 2
    assert all(count >= shared for count in cached[1:])


def test_sharing_a_prefix_changes_no_answer(tiny_llama: WorkerProcess) -> None:
    prompts = [f"Shared: {LONG}{ending}" for ending in ("One", "Two")]
    answers = together(tiny_llama, prompts, **WITH_LOGPROBS)
    assert max(reply.done.cached_tokens for reply in answers) > ask(tiny_llama, "count", text=LONG) - 2
    for prompt, reply in zip(prompts, answers, strict=True):
        forget(tiny_llama)
        assert_same_answer(reply, answer(tiny_llama, prompt, **WITH_LOGPROBS))


def test_after_an_interrupted_prefill_the_evaluated_tokens_are_reused_and_the_answer_is_right(
    shallow_llama: WorkerProcess,
) -> None:
    prompt = f"Then {LONG}{LONG[: len(LONG) // 2]}Once"
    forget(shallow_llama)
    unrelated = answer(shallow_llama, f"{LONG}Once", **WITH_LOGPROBS)
    forget(shallow_llama)
    expected = answer(shallow_llama, prompt, **WITH_LOGPROBS)
    forget(shallow_llama)
    for pause in (0.02, 0.1, None):
        crowd = Crowd(shallow_llama)
        call = crowd.ask(prompt, max_new_tokens=6)
        if pause is None:
            crowd.wait(call, Progress)  # the first batch of 512 has been evaluated
        else:
            time.sleep(pause)
        shallow_llama.cancel(call)
        if pause is not None:
            forget(shallow_llama)
    again = answer(shallow_llama, prompt, **WITH_LOGPROBS)
    assert 512 <= again.done.cached_tokens < again.done.prompt_tokens - 1
    assert_same_answer(again, expected)
    forget(shallow_llama)
    assert_same_answer(answer(shallow_llama, f"{LONG}Once", **WITH_LOGPROBS), unrelated)


# -- streaming_llm ---------------------------------------------------------------------------------------------------

SLIDING = OPTIONS | {"parallel": 2, "streaming_llm": True, "attention_sink_size": 8}


@pytest.fixture
def sliding(smollm2: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    with workers.lease(smollm2, LLAMA, **SLIDING) as pooled:
        yield pooled.worker


@pytest.fixture
def tiny_sliding(tiny: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    with workers.lease(tiny, LLAMA, **SLIDING) as pooled:
        yield pooled.worker


SYSTEM = "<|im_start|>system\nYou are a helpful assistant who answers in a few words.<|im_end|>\n"
TURNS = [f"{chat(f'{topic} number {n}')}It is fine.<|im_end|>\n" for n in range(5) for topic in TOPICS]
QUESTION = "<|im_start|>user\nAnd what is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


def makes_sense(text: str) -> bool:
    """Return whether an answer is right or repeats the earlier ones; with cells at wrong positions it is neither."""
    return "Paris" in text or "capital of France" in text or text == "It is fine."


def test_when_old_messages_are_dropped_the_others_are_not_evaluated_again(sliding: WorkerProcess) -> None:
    complete = answer(sliding, SYSTEM + "".join(TURNS[:10]), max_new_tokens=1).done
    dropped = answer(sliding, SYSTEM + "".join(TURNS[4:10]) + QUESTION, max_new_tokens=8)
    expected = ask(sliding, "count", text=SYSTEM + "".join(TURNS[4:10]))
    assert dropped.done.cached_tokens == expected < complete.prompt_tokens
    assert makes_sense(dropped.text)
    check_idle(sliding)


def test_shifted_cells_are_at_the_right_positions_and_can_be_shifted_again(sliding: WorkerProcess) -> None:
    forget(sliding)  # shifted cells still depend on dropped ones, so begin without shifted cells
    answer(sliding, SYSTEM + "".join(TURNS[:9]) + QUESTION, max_new_tokens=8)
    for first in range(1, 5):
        prompt = SYSTEM + "".join(TURNS[first : 9 + first])
        reply = answer(sliding, prompt + QUESTION, max_new_tokens=8)
        assert reply.done.cached_tokens > reply.done.prompt_tokens / 2
        assert makes_sense(reply.text)
        check_idle(sliding)


def test_without_a_system_message_the_first_tokens_stay_as_attention_sinks(sliding: WorkerProcess) -> None:
    """The sinks are eight tokens of the first message, which the prompt no longer contains."""
    answer(sliding, "".join(TURNS[10:18]), max_new_tokens=1)
    prompt = "".join(TURNS[12:18]) + QUESTION
    reply = answer(sliding, prompt, max_new_tokens=8)
    assert reply.done.cached_tokens == ask(sliding, "count", text="".join(TURNS[12:18]))
    assert makes_sense(reply.text)
    used = reply.done.prompt_tokens + reply.done.completion_tokens
    assert any(used <= slot["cells"] + 1 <= used + 8 for slot in describe_cache(sliding)["slots"])


def test_attention_sinks_do_not_end_an_answer_early(tiny_sliding: WorkerProcess) -> None:
    forget(tiny_sliding)
    answer(tiny_sliding, "".join(TURNS[10:18]), max_new_tokens=1)
    prompt = "".join(TURNS[12:18]) + QUESTION
    to_the_end = {"max_new_tokens": 0, "ban_eos_token": True}
    shifted = answer(tiny_sliding, prompt, **to_the_end).done
    assert shifted.cached_tokens == ask(tiny_sliding, "count", text="".join(TURNS[12:18]))
    check_idle(tiny_sliding)
    forget(tiny_sliding)
    whole = answer(tiny_sliding, prompt, **to_the_end).done
    assert whole.cached_tokens == 0 and shifted.completion_tokens == whole.completion_tokens


def test_cells_that_two_conversations_share_are_not_shifted(tiny_sliding: WorkerProcess) -> None:
    """The second conversation continues in the cells of the first, so a shift for one would move the other's cells."""
    beginning = SYSTEM + "".join(TURNS[:9])
    rain, dropped = beginning + chat("the rain"), SYSTEM + "".join(TURNS[3:9]) + QUESTION
    short = WITH_LOGPROBS | {"max_new_tokens": 8}
    long = WITH_LOGPROBS | {"max_new_tokens": 200}
    crowd = Crowd(tiny_sliding)
    first_call = crowd.ask(beginning + chat("the wind"), **long)
    crowd.wait(first_call, Text)
    second = crowd.answer(crowd.ask(rain, **short))
    assert second.done.cached_tokens > second.done.prompt_tokens / 2
    shifted = crowd.answer(crowd.ask(dropped, **short))
    assert not any(isinstance(event, ENDS) for event in crowd.heard[first_call])
    first = crowd.answer(first_call)
    assert first.done.completion_tokens == 200
    check_idle(tiny_sliding)
    for reply, prompt, params in (
        (second, rain, short),
        (shifted, dropped, short),
        (first, beginning + chat("the wind"), long),
    ):
        forget(tiny_sliding)
        assert_same_answer(reply, answer(tiny_sliding, prompt, **params))


def test_without_streaming_llm_tokens_after_a_gap_are_evaluated_again(tiny_llama: WorkerProcess) -> None:
    answer(tiny_llama, SYSTEM + "".join(TURNS[:10]), max_new_tokens=1)
    again = answer(tiny_llama, SYSTEM + "".join(TURNS[4:10]) + QUESTION, max_new_tokens=1).done
    assert again.cached_tokens < ask(tiny_llama, "count", text=SYSTEM + TURNS[4])


def test_a_prompt_that_is_asked_again_is_evaluated_once_where_every_slot_has_a_cache(
    tiny: Path, workers: WorkerPool
) -> None:
    """It is too short for a copy. A conversation that goes on after it keeps its cells."""
    prompt = chat("the moon")
    with workers.lease(tiny, LLAMA, **{**OPTIONS, "kv_unified": "off"}) as pooled:
        forget(pooled.worker)
        first, second = (answer(pooled.worker, prompt, max_new_tokens=80, ban_eos_token=True) for _ in range(2))
        assert first.done.prompt_tokens < 32
        assert (second.done.cached_tokens, second.text) == (second.done.prompt_tokens - 1, first.text)
        turn = f"{prompt}{second.text} And then"
        answer(pooled.worker, turn, max_new_tokens=80, ban_eos_token=True)
        answer(pooled.worker, prompt, max_new_tokens=2)
        again = answer(pooled.worker, turn, max_new_tokens=2)
        assert again.done.cached_tokens == again.done.prompt_tokens - 1
