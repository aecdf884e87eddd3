"""Concurrent requests to one llama.cpp model: batching, queueing and cancelling."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from modules.core.errors import OptionError
from modules.core.events import ENDS, Done, Failed, Progress, Text, Waiting
from modules.core.paths import ROOT
from modules.core.worker_errors import GenerationFailed, PromptTooLong
from modules.runtime.worker_process import WorkerProcess
from tests.support.answers import Crowd, answer, forget, parameters, together
from tests.support.llama_requests import (
    LONG,
    MAX_DEVIATION,
    N_CTX,
    TOPICS,
    WITH_LOGPROBS,
    assert_same_answer,
    chat,
    describe_cache,
    largest_deviation,
)
from tests.support.shallow_gguf import shallow_gguf


def test_several_requests_are_answered_concurrently(shallow_llama: WorkerProcess) -> None:
    crowd = Crowd(shallow_llama)
    calls = [crowd.ask(chat(topic), max_new_tokens=60, ban_eos_token=True) for topic in TOPICS]
    for call in calls:
        crowd.wait(call, Text, 5)
    assert not any(isinstance(event, ENDS) for call in calls for event in crowd.heard[call])
    answers = [crowd.answer(call) for call in calls]
    assert [reply.done.completion_tokens for reply in answers] == [60] * 4
    assert not any(isinstance(event, Waiting) for reply in answers for event in reply.events)


def test_requests_without_a_slot_are_told_each_change_of_their_queue_position(shallow_llama: WorkerProcess) -> None:
    crowd = Crowd(shallow_llama)
    lengths = (20, 40, 40, 40)
    running = [
        crowd.ask(chat(topic), max_new_tokens=length, ban_eos_token=True)
        for topic, length in zip(TOPICS, lengths, strict=True)
    ]
    fifth, sixth = (crowd.ask(f"The {name} of", max_new_tokens=3) for name in ("fifth", "sixth"))
    positions = [
        [event.position for event in crowd.answer(call).events if isinstance(event, Waiting)]
        for call in (*running, fifth, sixth)
    ]
    assert positions == [[], [], [], [], [1], [2, 1]]


def test_concurrent_answers_agree_with_single_evaluation(whole_llama: WorkerProcess) -> None:
    """Evaluated singly, every token is the most likely one, or so close that the order of summation explains it."""
    prompts = [chat(topic) for topic in TOPICS]
    for prompt, reply in zip(prompts, together(whole_llama, prompts, max_new_tokens=12), strict=True):
        forget(whole_llama)
        assert largest_deviation(whole_llama, prompt, reply.text) < MAX_DEVIATION


def test_in_full_precision_concurrent_answers_have_the_log_probabilities_of_single_ones(
    tiny_llama: WorkerProcess,
) -> None:
    prompts = [chat(topic) for topic in TOPICS]
    answers = together(tiny_llama, prompts, **WITH_LOGPROBS)
    assert len({reply.text for reply in answers}) == len(TOPICS)
    for prompt, reply in zip(prompts, answers, strict=True):
        forget(tiny_llama)
        assert_same_answer(reply, answer(tiny_llama, prompt, **WITH_LOGPROBS))


def test_with_a_separate_cache_per_slot_concurrent_answers_are_identical(smollm2: Path) -> None:
    request = {"path": str(shallow_gguf(smollm2)), "prompts": [chat(topic) for topic in TOPICS]}
    command = [sys.executable, "-m", "tests.support.apart_probe"]
    child = subprocess.run(command, cwd=ROOT, input=json.dumps(request), capture_output=True, text=True, timeout=100)
    assert child.returncode == 0, child.stderr[-2000:]
    concurrent, single, copied, continued, asked_again, evaluated = json.loads(child.stdout)
    assert len(set(concurrent)) == len(TOPICS)
    assert concurrent == single
    assert copied > 32, "a prefix of a request that runs is copied"
    first, second = continued["slots"]
    assert abs(first - second) == 1, "llama.cpp evaluates neighbors at once"
    assert max(continued["new"]) < 8, "a conversation takes its cells along"
    assert asked_again == [1] * len(TOPICS), "slots that will be neighbors keep their prompts"
    before, begun, after = evaluated
    assert begun[:2] == before[:2] and begun[2] == 9, "a short prompt is evaluated at once, and long ones sit out"
    assert after[0] > begun[0] and after[1] > begun[1] and after[2] == 10, "but for one step"


def test_a_short_prompt_does_not_wait_for_a_long_one(shallow_llama: WorkerProcess) -> None:
    crowd = Crowd(shallow_llama)
    long = crowd.ask(f"Before: {LONG}{LONG[: len(LONG) // 2]}", max_new_tokens=5)
    crowd.wait(long, Progress)
    short = crowd.ask("The capital of France is", max_new_tokens=1)
    crowd.wait(short, Text)
    assert not any(isinstance(event, Text) for event in crowd.heard[long])
    assert crowd.answer(long).done.completion_tokens == 5


def test_a_stream_continues_during_the_prefill_of_a_long_prompt(shallow_llama: WorkerProcess) -> None:
    crowd = Crowd(shallow_llama)
    stream = crowd.ask(chat("the sea"), max_new_tokens=300, ban_eos_token=True)
    crowd.wait(stream, Text, 2)
    long = crowd.ask(f"Beside it: {LONG}", max_new_tokens=1)
    crowd.wait(long, Progress)
    before = len(crowd.heard[stream])
    crowd.wait(long)
    assert len(crowd.heard[stream]) - before >= 3, "a token with each part of the prompt"
    shallow_llama.cancel(stream)


def test_a_single_request_may_use_the_whole_context(tiny_llama: WorkerProcess) -> None:
    reply = answer(tiny_llama, chat("everything"), max_new_tokens=0, ban_eos_token=True)
    assert reply.done.reason == "length"
    assert reply.done.prompt_tokens + reply.done.completion_tokens == N_CTX + 1


def test_when_requests_overflow_the_context_the_last_one_is_preempted_and_resumed(tiny_llama: WorkerProcess) -> None:
    params = {"max_new_tokens": 400, "ban_eos_token": True}
    answers = together(tiny_llama, [chat(topic) for topic in TOPICS], **params)
    assert [reply.done.completion_tokens for reply in answers] == [400] * 4
    assert any(isinstance(event, Waiting) for reply in answers for event in reply.events)


def test_a_prompt_that_does_not_fit_is_refused_while_other_requests_continue(shallow_llama: WorkerProcess) -> None:
    crowd = Crowd(shallow_llama)
    valid = crowd.ask(chat("rain"), max_new_tokens=20, ban_eos_token=True)
    with pytest.raises(PromptTooLong):
        crowd.answer(crowd.ask("tell " * 3000))
    assert crowd.answer(valid).done.completion_tokens == 20


def test_a_grammar_that_allows_no_token_ends_only_its_own_answer(shallow_llama: WorkerProcess) -> None:
    crowd = Crowd(shallow_llama)
    valid = crowd.ask(chat("snow"), max_new_tokens=20, ban_eos_token=True)
    with pytest.raises(OptionError):
        crowd.answer(crowd.ask("1", grammar_string="root ::= ("))
    with pytest.raises(GenerationFailed):
        crowd.answer(crowd.ask("1", grammar_string='root ::= "1"', custom_token_bans="33", logit_bias={"1": 0}))
    assert crowd.answer(valid).done.completion_tokens == 20


# -- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["prefill", "decode", "queued"])
def test_cancelling_acts_at_once_in_every_state(shallow_llama: WorkerProcess, state: str) -> None:
    forget(shallow_llama)
    expected = answer(shallow_llama, "The capital of France is", **WITH_LOGPROBS)
    crowd = Crowd(shallow_llama)
    long = {"max_new_tokens": 200, "ban_eos_token": True}  # so that all four fit into the context
    others = [crowd.ask(chat(topic), **long) for topic in TOPICS] if state == "queued" else []
    call = crowd.ask(
        f"{state} {LONG}" if state == "prefill" else chat("clouds"), max_new_tokens=300, ban_eos_token=True
    )
    if state == "prefill":
        time.sleep(0.05)  # in the middle of the first batch
    else:
        crowd.wait(call, Waiting if others else Text)
    began = time.monotonic()
    shallow_llama.cancel(call)
    description = describe_cache(shallow_llama)  # answered between two steps
    assert time.monotonic() - began < 0.2
    assert sum(slot["busy"] for slot in description["slots"]) == len(others)
    for other in others:
        shallow_llama.cancel(other)
    forget(shallow_llama)
    assert_same_answer(answer(shallow_llama, "The capital of France is", **WITH_LOGPROBS), expected)


def test_cancelling_does_not_affect_other_requests(tiny_llama: WorkerProcess) -> None:
    params = WITH_LOGPROBS | {"max_new_tokens": 600}
    crowd = Crowd(tiny_llama)
    running = crowd.ask(chat("the moon"), **params)
    for _ in range(4):
        cancelled = crowd.ask(chat("clouds"), max_new_tokens=300, ban_eos_token=True)
        crowd.wait(cancelled, Text)
        tiny_llama.cancel(cancelled)
    assert not any(isinstance(event, ENDS) for event in crowd.heard[running])
    reply = crowd.answer(running)
    assert reply.done.completion_tokens == 600
    forget(tiny_llama)
    assert_same_answer(reply, answer(tiny_llama, chat("the moon"), **params))


def test_forty_clients_that_cancel_at_random_all_get_an_answer_or_an_error(tiny_llama: WorkerProcess) -> None:
    outcomes: list[str] = []
    clients = [threading.Thread(target=run_client, args=(tiny_llama, seed, outcomes)) for seed in range(40)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(90)
    assert not any(thread.is_alive() for thread in clients)
    assert {"done", "cancelled", "PromptTooLong"} <= set(outcomes) <= {"done", "cancelled", "PromptTooLong"}
    assert outcomes.count("done") > 40


def run_client(worker: WorkerProcess, seed: int, outcomes: list[str]) -> None:
    """Send six requests, of which some are answered, some are cancelled and some do not fit."""
    rng = random.Random(seed)
    for _ in range(6):
        words = rng.choice((5, 20, 60, 200, 2000 if rng.random() < 0.2 else 30))
        prompt = chat(" ".join(rng.choice(("sun", "moon", "rain", "tree", "stone")) for _ in range(words)))
        crowd = Crowd(worker)
        call = crowd.ask(prompt, max_new_tokens=rng.randint(1, 12), temperature=rng.choice((0, 1)), seed=seed)
        if rng.random() < 0.4:
            time.sleep(rng.random() * 2)
            worker.cancel(call)
            outcomes.append("cancelled")
            continue
        events = crowd.wait(call)
        end = events[-1]
        outcomes.append(type(end.error).__name__ if isinstance(end, Failed) else "done")
        assert isinstance(end, (Done, Failed))
        time.sleep(rng.random() * 0.2)


def test_parameters_are_checked_before_a_request_waits(shallow_llama: WorkerProcess) -> None:
    crowd = Crowd(shallow_llama)
    others = [crowd.ask(chat(topic), max_new_tokens=100, ban_eos_token=True) for topic in TOPICS]
    with pytest.raises(OptionError):
        list(shallow_llama.events("generate", prompt="1", params=parameters(custom_token_bans="99999")))
    for other in others:
        shallow_llama.cancel(other)
