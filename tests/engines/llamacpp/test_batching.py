"""Many requests to one llama.cpp model: they run together, wait, are cancelled, and leave no slot busy."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import GenerationFailed, OptionError, PromptTooLong
from modules.core.events import ENDS, Done, Failed, Progress, Text, Waiting
from modules.core.paths import ROOT
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import LLAMA
from tests.support.answers import Answer, Crowd, answer, ask, forget, parameters, together
from tests.support.shallow_gguf import shallow_gguf
from tests.support.worker_pool import WorkerPool

THREADS = 1
N_CTX = 1024
TOPICS = ("the moon", "a river in spring", "how bread is made", "the number seven")
LONG = "".join(f"{number}. The {topic} again. " for number in range(40) for topic in ("sun", "sea"))
HONEST = 0.7
"""Upper bound of `furthest` for an answer that no other conversation has affected; see benchmarks/bound.py."""


OPTIONS: dict[str, object] = {"n_ctx": N_CTX, "parallel": 4, "threads": THREADS, "threads_batch": THREADS}
SLIDING = OPTIONS | {"parallel": 2, "streaming_llm": True, "attention_sink_size": 8}


@pytest.fixture(scope="module")
def llama(smollm2: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    """A worker with the demo model's first layers: slow enough for requests to arrive in between."""
    with workers.lease(shallow_gguf(smollm2), LLAMA, **OPTIONS) as pooled:
        yield pooled.worker


@pytest.fixture(scope="module")
def quick(tiny: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    """A worker with the tiny model, for many tokens and for exact answers: it computes in full precision."""
    with workers.lease(tiny, LLAMA, **OPTIONS) as pooled:
        yield pooled.worker


@pytest.fixture
def real(smollm2: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    with workers.lease(smollm2, LLAMA, **OPTIONS) as pooled:
        yield pooled.worker


@pytest.fixture(autouse=True)
def _all_slots_are_idle_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    used = [request.getfixturevalue(name) for name in ("llama", "quick", "real") if name in request.fixturenames]
    yield
    for worker in used:
        settled(worker)


def cache(worker: WorkerProcess) -> Any:
    return ask(worker, "cache")


def settled(worker: WorkerProcess) -> None:
    """Fail if a slot is busy, or if llama.cpp's KV cache differs from our account of it."""
    told = cache(worker)
    assert not any(slot["busy"] for slot in told["slots"])
    for slot in told["slots"]:
        assert slot["span"] == ([0, slot["cells"] - 1] if slot["cells"] else [-1, -1]), told


def chat(topic: str) -> str:
    return f"<|im_start|>user\nTell me about {topic}.<|im_end|>\n<|im_start|>assistant\n"


# -- together ---------------------------------------------------------------------------------------------------------


def test_several_requests_are_answered_at_the_same_time(llama: WorkerProcess) -> None:
    crowd = Crowd(llama)
    calls = [crowd.ask(chat(topic), max_new_tokens=60, ban_eos_token=True) for topic in TOPICS]
    for call in calls:
        crowd.wait(call, Text, 5)
    assert not any(isinstance(event, ENDS) for call in calls for event in crowd.heard[call])
    answers = [crowd.answer(call) for call in calls]
    assert [each.done.completion_tokens for each in answers] == [60] * 4
    assert not any(isinstance(event, Waiting) for each in answers for event in each.events)


def test_requests_without_a_slot_wait_and_learn_their_changing_queue_position(llama: WorkerProcess) -> None:
    crowd = Crowd(llama)
    lengths = (20, 40, 40, 40)
    running = [
        crowd.ask(chat(topic), max_new_tokens=length, ban_eos_token=True)
        for topic, length in zip(TOPICS, lengths, strict=True)
    ]
    fifth, sixth = (crowd.ask(f"The {name} of", max_new_tokens=3) for name in ("fifth", "sixth"))
    places = [
        [event.place for event in crowd.answer(call).events if isinstance(event, Waiting)]
        for call in (*running, fifth, sixth)
    ]
    assert places == [[], [], [], [], [1], [2, 1]]


def test_concurrent_answers_are_those_the_model_would_give_alone(real: WorkerProcess) -> None:
    """Evaluated alone, every token is the most likely one, or so close that another order of sums explains it."""
    prompts = [chat(topic) for topic in TOPICS]
    for prompt, answered in zip(prompts, together(real, prompts, max_new_tokens=12), strict=True):
        forget(real)
        assert furthest(real, prompt, answered.text) < HONEST


def test_in_full_precision_concurrent_answers_have_the_log_probabilities_of_single_ones(quick: WorkerProcess) -> None:
    prompts = [chat(topic) for topic in TOPICS]
    answers = together(quick, prompts, **WITH_CHANCES)
    assert len({each.text for each in answers}) == len(TOPICS)
    for prompt, answered in zip(prompts, answers, strict=True):
        forget(quick)
        assert_same(answered, answer(quick, prompt, **WITH_CHANCES))


WITH_CHANCES: dict[str, Any] = {"max_new_tokens": 30, "ban_eos_token": True, "top_logprobs": 20}
ROUNDED = 0.2
"""Another order of sums changes a log probability of the tiny model by up to 0.04, because the cache is in float16.
Other words before it make other tokens the most likely ones."""


def assert_same(answered: Answer, expected: Answer) -> None:
    """Fail unless log probabilities differ by rounding alone, as long as both texts are the same: they may diverge
    where two tokens are equally likely."""
    assert answered.done.completion_tokens == expected.done.completion_tokens
    for ours, theirs in zip(answered.chances, expected.chances, strict=True):
        found = {each.text: each.logprob for each in ours.top}
        for each in theirs.top[:10]:
            assert each.text in found
            assert abs(found[each.text] - each.logprob) < ROUNDED
        if ours.chosen.text != theirs.chosen.text:
            break


def test_with_a_separate_cache_per_slot_concurrent_answers_are_identical(smollm2: Path) -> None:
    asked = {"path": str(shallow_gguf(smollm2)), "prompts": [chat(topic) for topic in TOPICS]}
    command = [sys.executable, "-m", "tests.support.apart_probe"]
    told = subprocess.run(command, cwd=ROOT, input=json.dumps(asked), capture_output=True, text=True, timeout=100)
    assert told.returncode == 0, told.stderr[-2000:]
    at_once, alone = json.loads(told.stdout)
    assert len(set(at_once)) == len(TOPICS)
    assert at_once == alone


def furthest(worker: WorkerProcess, prompt: str, text: str) -> float:
    """Return how far a token of `text` lies below the most likely one at most, in log probability."""
    said = answer(worker, prompt, max_new_tokens=0, grammar_string=f"root ::= {json.dumps(text)}", top_logprobs=1)
    assert said.text == text
    return max(chance.top[0].logprob - chance.chosen.logprob for chance in said.chances)


def test_a_short_prompt_does_not_wait_for_a_long_one(llama: WorkerProcess) -> None:
    crowd = Crowd(llama)
    long = crowd.ask(f"Before: {LONG}", max_new_tokens=5)
    crowd.wait(long, Progress)
    short = crowd.ask("The capital of France is", max_new_tokens=1)
    crowd.wait(short, Text)
    assert not any(isinstance(event, Text) for event in crowd.heard[long])
    assert crowd.answer(long).done.completion_tokens == 5


def test_a_stream_continues_during_the_prefill_of_a_long_prompt(llama: WorkerProcess) -> None:
    crowd = Crowd(llama)
    stream = crowd.ask(chat("the sea"), max_new_tokens=300, ban_eos_token=True)
    crowd.wait(stream, Text, 2)
    long = crowd.ask(f"Beside it: {LONG}", max_new_tokens=1)
    crowd.wait(long, Progress)
    before = len(crowd.heard[stream])
    crowd.wait(long)
    pieces = (ask(llama, "count", text=LONG) - 64) // 64
    assert len(crowd.heard[stream]) - before >= pieces - 2, "one token with each piece of the prompt"
    llama.cancel(stream)


# -- the cache --------------------------------------------------------------------------------------------------------


def test_more_conversations_than_slots_all_reuse_their_earlier_turns(quick: WorkerProcess) -> None:
    """Those without a slot are saved in main memory."""
    talks = [f"{chat(f'{topic} and the {thing}')}" for topic in TOPICS for thing in ("old tree by the well", "cat")]
    talks = [
        talk + "Well, that is a long story, and it begins on a winter's night in the north. " * 4 for talk in talks
    ]
    (word,) = ask(quick, "encode", text=" and")  # which is tokenized as the same token again
    answers = [answer(quick, talk, max_new_tokens=10, logit_bias={str(word): 100.0}) for talk in talks]
    assert cache(quick)["saved"]
    for talk, first in zip(talks, answers, strict=True):
        second = answer(quick, f"{talk}{first.text} And so on", max_new_tokens=2)
        assert second.done.cached_tokens >= first.done.prompt_tokens + 8


def test_conversations_that_continue_at_the_same_moment_all_reuse_their_own_cells(quick: WorkerProcess) -> None:
    """No conversation is evicted for one that begins just before it."""
    talks = [f"{chat(f'{topic} again')}It is known to everybody and needs no words." for topic in TOPICS]
    together(quick, talks, max_new_tokens=60, ban_eos_token=True)
    again = together(quick, talks, max_new_tokens=2)
    assert [each.done.cached_tokens for each in again] == [each.done.prompt_tokens - 1 for each in again]


def test_idle_conversations_are_saved_to_main_memory_while_another_decodes(quick: WorkerProcess) -> None:
    forget(quick)
    together(quick, [f"{chat(topic)} {LONG[:300]}" for topic in TOPICS], max_new_tokens=2)
    answer(quick, "Once upon a time", max_new_tokens=30, ban_eos_token=True)
    told = cache(quick)
    assert [slot["cells"] > 0 for slot in told["slots"]].count(True) == 1
    assert len(told["saved"]) == 4


def test_a_common_prefix_is_evaluated_once(llama: WorkerProcess) -> None:
    prompts = [f"In common: {LONG}{ending}" for ending in ("One", "Two", "Three", "Four")]
    answers = together(llama, prompts, max_new_tokens=8)
    shared = ask(llama, "count", text=LONG) - 2
    cached = sorted(each.done.cached_tokens for each in answers)
    assert cached[0] < shared / 2
    assert all(each >= shared for each in cached[1:])


def test_sharing_a_prefix_changes_no_answer(quick: WorkerProcess) -> None:
    prompts = [f"Shared: {LONG}{ending}" for ending in ("One", "Two")]
    answers = together(quick, prompts, **WITH_CHANCES)
    assert max(each.done.cached_tokens for each in answers) > ask(quick, "count", text=LONG) - 2
    for prompt, answered in zip(prompts, answers, strict=True):
        forget(quick)
        assert_same(answered, answer(quick, prompt, **WITH_CHANCES))


def test_a_single_request_may_use_the_whole_context(quick: WorkerProcess) -> None:
    whole = answer(quick, chat("everything"), max_new_tokens=0, ban_eos_token=True)
    assert whole.done.reason == "length"
    assert whole.done.prompt_tokens + whole.done.completion_tokens == N_CTX + 1


def test_when_several_overflow_the_context_the_last_one_is_preempted_and_resumes(quick: WorkerProcess) -> None:
    wishes = {"max_new_tokens": 400, "ban_eos_token": True}
    answers = together(quick, [chat(topic) for topic in TOPICS], **wishes)
    assert [each.done.completion_tokens for each in answers] == [400] * 4
    assert any(isinstance(event, Waiting) for each in answers for event in each.events)


def test_a_prompt_that_does_not_fit_is_refused_while_others_continue(llama: WorkerProcess) -> None:
    crowd = Crowd(llama)
    fine = crowd.ask(chat("rain"), max_new_tokens=20, ban_eos_token=True)
    with pytest.raises(PromptTooLong):
        crowd.answer(crowd.ask("tell " * 3000))
    assert crowd.answer(fine).done.completion_tokens == 20


def test_a_grammar_that_allows_no_token_ends_only_its_own_answer(llama: WorkerProcess) -> None:
    crowd = Crowd(llama)
    fine = crowd.ask(chat("snow"), max_new_tokens=20, ban_eos_token=True)
    with pytest.raises(OptionError):
        crowd.answer(crowd.ask("1", grammar_string="root ::= ("))
    with pytest.raises(GenerationFailed):
        crowd.answer(crowd.ask("1", grammar_string='root ::= "1"', custom_token_bans="33", logit_bias={"1": 0}))
    assert crowd.answer(fine).done.completion_tokens == 20


# -- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["reading", "writing", "waiting"])
def test_cancelling_acts_at_once_in_every_state(llama: WorkerProcess, when: str) -> None:
    forget(llama)
    expected = answer(llama, "The capital of France is", **WITH_CHANCES)
    crowd = Crowd(llama)
    endless = {"max_new_tokens": 200, "ban_eos_token": True}  # so that all four fit into the context
    others = [crowd.ask(chat(topic), **endless) for topic in TOPICS] if when == "waiting" else []
    call = crowd.ask(f"{when} {LONG}" if when == "reading" else chat("clouds"), max_new_tokens=300, ban_eos_token=True)
    if when == "reading":
        time.sleep(0.05)  # in the middle of the first batch
    else:
        crowd.wait(call, Waiting if others else Text)
    began = time.monotonic()
    llama.cancel(call)
    told = cache(llama)  # answered between two steps
    assert time.monotonic() - began < 0.2
    assert sum(slot["busy"] for slot in told["slots"]) == len(others)
    for other in others:
        llama.cancel(other)
    forget(llama)
    assert_same(answer(llama, "The capital of France is", **WITH_CHANCES), expected)


def test_after_an_interrupted_prefill_the_evaluated_tokens_are_reused_and_the_answer_is_right(
    llama: WorkerProcess,
) -> None:
    prompt = f"Then {LONG}Once"
    forget(llama)
    other = answer(llama, f"{LONG}Once", **WITH_CHANCES)
    forget(llama)
    expected = answer(llama, prompt, **WITH_CHANCES)
    forget(llama)
    for pause in (0.02, 0.1, None):
        crowd = Crowd(llama)
        call = crowd.ask(prompt, max_new_tokens=6)
        if pause is None:
            crowd.wait(call, Progress)  # the first batch of 512 has been evaluated
        else:
            time.sleep(pause)
        llama.cancel(call)
    again = answer(llama, prompt, **WITH_CHANCES)
    assert 512 <= again.done.cached_tokens < again.done.prompt_tokens - 1
    assert_same(again, expected)
    forget(llama)
    assert_same(answer(llama, f"{LONG}Once", **WITH_CHANCES), other)


def test_cancelling_does_not_affect_other_requests(quick: WorkerProcess) -> None:
    wishes = WITH_CHANCES | {"max_new_tokens": 250}
    crowd = Crowd(quick)
    stays = crowd.ask(chat("the moon"), **wishes)
    for _ in range(8):
        goes = crowd.ask(chat("clouds"), max_new_tokens=300, ban_eos_token=True)
        crowd.wait(goes, Text)
        quick.cancel(goes)
    assert not any(isinstance(event, ENDS) for event in crowd.heard[stays])
    stayed = crowd.answer(stays)
    assert stayed.done.completion_tokens == 250
    forget(quick)
    assert_same(stayed, answer(quick, chat("the moon"), **wishes))


def test_forty_clients_that_come_and_vanish_at_random_all_get_an_answer_or_an_error(quick: WorkerProcess) -> None:
    outcomes: list[str] = []
    clients = [threading.Thread(target=client, args=(quick, seed, outcomes)) for seed in range(40)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(90)
    assert not any(each.is_alive() for each in clients)
    assert {"done", "gone", "PromptTooLong"} <= set(outcomes) <= {"done", "gone", "PromptTooLong"}
    assert outcomes.count("done") > 40


def client(worker: WorkerProcess, seed: int, outcomes: list[str]) -> None:
    """Send six requests: some are answered, some cancelled half-way, some impossible."""
    dice = random.Random(seed)
    for _ in range(6):
        words = dice.choice((5, 20, 60, 200, 2000 if dice.random() < 0.2 else 30))
        prompt = chat(" ".join(dice.choice(("sun", "moon", "rain", "tree", "stone")) for _ in range(words)))
        crowd = Crowd(worker)
        call = crowd.ask(prompt, max_new_tokens=dice.randint(1, 12), temperature=dice.choice((0, 1)), seed=seed)
        if dice.random() < 0.4:
            time.sleep(dice.random() * 2)
            worker.cancel(call)
            outcomes.append("gone")
            continue
        events = crowd.wait(call)
        end = events[-1]
        outcomes.append(type(end.error).__name__ if isinstance(end, Failed) else "done")
        assert isinstance(end, (Done, Failed))
        time.sleep(dice.random() * 0.2)


def test_parameters_are_checked_before_a_request_waits(llama: WorkerProcess) -> None:
    crowd = Crowd(llama)
    others = [crowd.ask(chat(topic), max_new_tokens=100, ban_eos_token=True) for topic in TOPICS]
    with pytest.raises(OptionError):
        list(llama.events("generate", prompt="1", params=parameters(custom_token_bans="99999")))
    for other in others:
        llama.cancel(other)


# -- streaming_llm ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sliding(smollm2: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    with workers.lease(smollm2, LLAMA, **SLIDING) as pooled:
        yield pooled.worker


@pytest.fixture
def quick_sliding(tiny: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    with workers.lease(tiny, LLAMA, **SLIDING) as pooled:
        yield pooled.worker


SYSTEM = "<|im_start|>system\nYou are a helpful assistant who answers in a few words.<|im_end|>\n"
TURNS = [f"{chat(f'{topic} number {n}')}It is fine.<|im_end|>\n" for n in range(5) for topic in TOPICS]
QUESTION = "<|im_start|>user\nAnd what is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


def makes_sense(text: str) -> bool:
    """Tell whether an answer is right, or like those before: with cells at wrong positions it would be neither."""
    return "Paris" in text or "capital of France" in text or text == "It is fine."


def test_when_old_messages_are_dropped_the_rest_is_not_evaluated_again(sliding: WorkerProcess) -> None:
    whole = answer(sliding, SYSTEM + "".join(TURNS[:10]), max_new_tokens=1).done
    dropped = answer(sliding, SYSTEM + "".join(TURNS[4:10]) + QUESTION, max_new_tokens=8)
    expected = ask(sliding, "count", text=SYSTEM + "".join(TURNS[4:10]))
    assert dropped.done.cached_tokens == expected < whole.prompt_tokens
    assert makes_sense(dropped.text)
    settled(sliding)


def test_shifted_cells_are_at_the_right_positions_and_can_be_shifted_again(sliding: WorkerProcess) -> None:
    forget(sliding)  # kept cells still depend on dropped ones, more after every shift: begin with none
    answer(sliding, SYSTEM + "".join(TURNS[:9]) + QUESTION, max_new_tokens=8)
    for first in range(1, 5):
        prompt = SYSTEM + "".join(TURNS[first : 9 + first])
        said = answer(sliding, prompt + QUESTION, max_new_tokens=8)
        assert said.done.cached_tokens > said.done.prompt_tokens / 2
        assert makes_sense(said.text)
        settled(sliding)


def test_without_a_system_message_the_first_tokens_stay_as_attention_sinks(sliding: WorkerProcess) -> None:
    """They are eight tokens of the first message, which the prompt no longer has."""
    answer(sliding, "".join(TURNS[10:18]), max_new_tokens=1)
    prompt = "".join(TURNS[12:18]) + QUESTION
    said = answer(sliding, prompt, max_new_tokens=8)
    assert said.done.cached_tokens == ask(sliding, "count", text="".join(TURNS[12:18]))
    assert makes_sense(said.text)
    used = said.done.prompt_tokens + said.done.completion_tokens
    assert any(used <= slot["cells"] + 1 <= used + 8 for slot in cache(sliding)["slots"])


def test_cells_that_two_conversations_share_are_not_shifted(quick_sliding: WorkerProcess) -> None:
    """The second continues the first one's cells: a shift for one of them would move the other's."""
    beginning = SYSTEM + "".join(TURNS[:9])
    rain, dropped = beginning + chat("the rain"), SYSTEM + "".join(TURNS[3:9]) + QUESTION
    few = WITH_CHANCES | {"max_new_tokens": 8}
    endless = WITH_CHANCES | {"max_new_tokens": 200}
    crowd = Crowd(quick_sliding)
    stays = crowd.ask(beginning + chat("the wind"), **endless)
    crowd.wait(stays, Text)
    shares = crowd.answer(crowd.ask(rain, **few))
    assert shares.done.cached_tokens > shares.done.prompt_tokens / 2
    shifted = crowd.answer(crowd.ask(dropped, **few))
    assert not any(isinstance(event, ENDS) for event in crowd.heard[stays])
    stayed = crowd.answer(stays)
    assert stayed.done.completion_tokens == 200
    settled(quick_sliding)
    for said, prompt, wishes in (
        (shares, rain, few),
        (shifted, dropped, few),
        (stayed, beginning + chat("the wind"), endless),
    ):
        forget(quick_sliding)
        assert_same(said, answer(quick_sliding, prompt, **wishes))


def test_without_streaming_llm_tokens_after_a_gap_are_evaluated_again(quick: WorkerProcess) -> None:
    answer(quick, SYSTEM + "".join(TURNS[:10]), max_new_tokens=1)
    again = answer(quick, SYSTEM + "".join(TURNS[4:10]) + QUESTION, max_new_tokens=1).done
    assert again.cached_tokens < ask(quick, "count", text=SYSTEM + TURNS[4])
