"""What follows an answer is evaluated when nothing else is to be done, and never changes or delays another answer."""

from __future__ import annotations

import time

import pytest

from modules.core.events import Text
from modules.runtime.worker_process import WorkerProcess
from tests.support.answers import Answer, Crowd, answer, ask, forget, parameters
from tests.support.llama_requests import WITH_LOGPROBS, assert_same_answer, chat, describe_cache

NEXT = "<|im_end|>\n<|im_start|>user\n"


@pytest.fixture(autouse=True)
def _empty_cache(tiny_llama: WorkerProcess) -> None:
    forget(tiny_llama)


def first_turn(worker: WorkerProcess, next_turn: str = NEXT, **settings: object) -> Answer:
    params = {**parameters(max_new_tokens=8, ban_eos_token=True, **settings), "next_turn": next_turn}
    return Answer(list(worker.events("generate", prompt=chat("the sea"), params=params)))


def most_cells(worker: WorkerProcess) -> int:
    return max(slot["cells"] for slot in describe_cache(worker)["slots"])


def wait_for_next_turn(worker: WorkerProcess, first: Answer) -> int:
    """Wait until more than the answer is evaluated. Return how many cells its slot has then."""
    length = first.done.prompt_tokens + first.done.completion_tokens
    for _ in range(40):  # asking more often would never leave a quiet moment
        time.sleep(0.1)
        if (cells := most_cells(worker)) > length:
            return cells
    raise AssertionError("timed out")


def second_prompt(reply: Answer) -> str:
    return f"{chat('the sea')}{reply.text}{NEXT}And the shore?<|im_end|>\n<|im_start|>assistant\n"


def test_the_next_turn_finds_the_marks_between_the_messages_evaluated(tiny_llama: WorkerProcess) -> None:
    first = first_turn(tiny_llama)
    marks = ask(tiny_llama, "encode", text=NEXT, add_special=False)
    cells = wait_for_next_turn(tiny_llama, first)
    assert cells == first.done.prompt_tokens + first.done.completion_tokens + len(marks)
    second = answer(tiny_llama, second_prompt(first), **WITH_LOGPROBS)
    assert second.done.cached_tokens == cells
    forget(tiny_llama)
    assert_same_answer(second, answer(tiny_llama, second_prompt(first), **WITH_LOGPROBS))


def test_a_next_turn_that_is_another_one_reuses_what_is_equal(tiny_llama: WorkerProcess) -> None:
    first = first_turn(tiny_llama, " or something else entirely")
    wait_for_next_turn(tiny_llama, first)
    second = answer(tiny_llama, second_prompt(first), **WITH_LOGPROBS)
    assert second.done.cached_tokens == first.done.prompt_tokens + first.done.completion_tokens
    forget(tiny_llama)
    assert_same_answer(second, answer(tiny_llama, second_prompt(first), **WITH_LOGPROBS))


def test_nothing_follows_an_answer_that_a_stop_string_has_cut(tiny_llama: WorkerProcess) -> None:
    whole = first_turn(tiny_llama).text
    forget(tiny_llama)
    cut = first_turn(tiny_llama, custom_stopping_strings=f'"{whole[4:8]}"')
    time.sleep(0.06)  # in which it would be evaluated
    assert most_cells(tiny_llama) < cut.done.prompt_tokens + cut.done.completion_tokens


def test_a_request_that_waits_comes_before_the_next_turn(tiny_llama: WorkerProcess) -> None:
    crowd = Crowd(tiny_llama)
    other = crowd.ask("The number of", max_new_tokens=200, ban_eos_token=True)
    crowd.wait(other, Text)
    first = first_turn(tiny_llama)
    tiny_llama.cancel(other)
    cells = [slot["cells"] for slot in describe_cache(tiny_llama)["slots"]]
    assert first.done.prompt_tokens + first.done.completion_tokens - 1 in cells
