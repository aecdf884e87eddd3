"""Behavior that all engines share: the end of an answer, log probabilities, caches, cancelling, prompts.

Tested on the tiny model, whose answers are nonsense that depends on every token; on the demo model where words matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import InternalError, OptionError
from modules.core.events import Text
from modules.core.worker_errors import GenerationFailed, PromptTooLong
from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess
from tests.support.answers import Answer, Crowd, answer, ask, forget, parameters
from tests.support.worker_pool import WorkerPool

N_CTX = 2048
# Two threads would wait for each other if other processes use the CPUs as well.
LLAMACPP: dict[str, Any] = {"n_ctx": N_CTX, "threads": 1, "threads_batch": 1, "flash_attn": True}
OPTIONS: dict[str, dict[str, Any]] = {"llama.cpp": LLAMACPP, "llamacpp_HF": LLAMACPP, "Transformers": {}}
STORY = "Once upon a time, in a small village by the sea,"
CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
    "<|im_start|>user\nName the capital of France in one sentence.<|im_end|>\n<|im_start|>assistant\n"
)
CODE = "def fibonacci(n):\n    "
FRANCE = "The capital of France is"
TOO_COMPLEX = 'root ::= ([a-z]* "a" [a-z]*){200} "b"'
"""A grammar that compiles, and whose first token would take too long."""


@pytest.fixture(scope="module", params=OPTIONS)
def loader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(loader: str, tiny: Path, tiny_folder: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    """A worker with the tiny model."""
    model = tiny_folder if loader == "Transformers" else tiny
    with workers.lease(model, LOADERS[loader], **OPTIONS[loader]) as pooled:
        yield pooled.worker


@pytest.fixture(scope="module")
def demo_engine(loader: str, smollm2: Path, smollm2_folder: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    """A worker with the demo model."""
    model = smollm2_folder if loader == "Transformers" else smollm2
    with workers.lease(model, LOADERS[loader], **OPTIONS[loader]) as pooled:
        yield pooled.worker


# -- log probabilities -------------------------------------------------------------------------------------------------


def test_log_probabilities_are_sorted_and_as_many_as_requested(engine: WorkerProcess) -> None:
    reply = answer(engine, FRANCE, temperature=2, seed=1, min_p=0, top_logprobs=7)
    assert len(reply.logprobs) == reply.done.completion_tokens
    for token in reply.logprobs:
        logprobs = [candidate.logprob for candidate in token.top]
        assert len(logprobs) == 7
        assert logprobs == sorted(logprobs, reverse=True)
        assert token.chosen.logprob <= logprobs[0] <= 0
    assert any(token.chosen not in token.top for token in reply.logprobs), "unlikely tokens are sampled, too"


def test_log_probabilities_are_sent_on_request_and_0_requests_the_chosen_tokens(
    engine: WorkerProcess,
) -> None:
    assert not answer(engine, FRANCE).logprobs
    assert [token.top for token in answer(engine, FRANCE, top_logprobs=0).logprobs] == [()] * 20


# -- the KV cache ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [STORY, CHAT], ids=["story", "chat"])
def test_a_repeated_prompt_is_not_evaluated_again_and_has_the_same_answer(engine: WorkerProcess, prompt: str) -> None:
    forget(engine)
    first, second = answer(engine, prompt), answer(engine, prompt)
    assert first.done.cached_tokens == 0
    assert second.done.cached_tokens == second.done.prompt_tokens - 1
    assert second.text == first.text


def test_a_second_turn_evaluates_only_the_new_tokens(engine: WorkerProcess) -> None:
    forget(engine)
    first = answer(engine, STORY, max_new_tokens=10)
    expected = first.done.prompt_tokens + 10 - 1  # the last sampled token was not evaluated
    second = answer(engine, f"{STORY}{first.text} But then", max_new_tokens=5)
    assert second.done.cached_tokens == expected
    forget(engine)
    assert answer(engine, f"{STORY}{first.text} But then", max_new_tokens=5).text == second.text


def test_a_prompt_that_diverges_early_reuses_only_the_common_prefix(engine: WorkerProcess) -> None:
    forget(engine)
    answer(engine, FRANCE)
    common = len(ask(engine, "encode", text="The capital of"))
    italy = answer(engine, "The capital of Italy is")
    assert italy.done.cached_tokens == common
    forget(engine)
    assert answer(engine, "The capital of Italy is").text == italy.text


def test_a_sampled_answer_is_repeated_by_its_seed_with_as_many_tokens_from_the_cache(
    demo_engine: WorkerProcess,
) -> None:
    forget(demo_engine)
    first = sampled(demo_engine, STORY, -1)
    turn = f"{STORY}{first.text} But one day"
    second = sampled(demo_engine, turn, -1)
    assert first.done.seed != second.done.seed
    for prompt, reply in ((turn, second), (STORY, first)):
        again = sampled(demo_engine, prompt, reply.done.seed, max_cached_tokens=reply.done.cached_tokens)
        assert (again.text, again.done.seed) == (reply.text, reply.done.seed)
        assert again.done.cached_tokens == reply.done.cached_tokens
    assert sampled(demo_engine, STORY, first.done.seed // 2, max_cached_tokens=0).text != first.text


def sampled(worker: WorkerProcess, prompt: str, seed: int, **more: int) -> Answer:
    params = parameters(temperature=1, seed=seed, max_new_tokens=30) | more
    return Answer(list(worker.events("generate", prompt=prompt, params=params)))


# -- the end of an answer ----------------------------------------------------------------------------------------------


def test_the_answer_ends_after_the_requested_number_of_tokens(engine: WorkerProcess) -> None:
    short = answer(engine, STORY, max_new_tokens=7)
    assert (short.done.reason, short.done.completion_tokens) == ("length", 7)
    assert [event.tokens for event in short.events if isinstance(event, Text) and event.text] == [1] * 7


def test_an_end_token_ends_the_answer_and_is_not_shown(demo_engine: WorkerProcess) -> None:
    reply = answer(demo_engine, CHAT, max_new_tokens=200)
    assert reply.done.reason == "stop"
    assert "Paris" in reply.text
    assert "<|" not in reply.text


def test_a_stop_string_across_tokens_is_never_shown(engine: WorkerProcess) -> None:
    unstopped = answer(engine, STORY, max_new_tokens=40)
    pieces = unstopped.pieces
    for index in (5, 19, 31):  # from the middle of one token to the middle of the third
        stop = (pieces[index][1:] or pieces[index]) + pieces[index + 1] + pieces[index + 2][:1]
        stopped = answer(engine, STORY, max_new_tokens=40, stops=("never said", stop))
        assert stopped.text == unstopped.text[: unstopped.text.index(stop)], stop
        assert stopped.done.reason == "stop"
        assert stopped.done.completion_tokens <= index + 3, "no tokens are evaluated after the stop string"


def test_a_stop_string_that_does_not_occur_changes_nothing(engine: WorkerProcess) -> None:
    expected = answer(engine, STORY)
    reply = answer(engine, STORY, stops=(expected.text[-3:] + "and no more", "never said"))
    assert reply.text == expected.text
    assert reply.done.reason == "length"


def test_a_stop_string_of_characters_that_take_several_tokens_ends_the_answer(demo_engine: WorkerProcess) -> None:
    reply = answer(demo_engine, "猫猫猫猫猫猫猫猫", max_new_tokens=30, stops=("猫猫",))
    assert (reply.text, reply.done.reason) == ("", "stop")


@pytest.mark.parametrize(
    "prompt", ["猫猫猫猫猫猫猫猫", "日本語、日本語、日本語、", "a 🦄 a 🦄 a 🦄 a 🦄 a", "한국어 한국어 한국어"]
)
def test_only_whole_characters_are_sent(demo_engine: WorkerProcess, prompt: str) -> None:
    reply = answer(demo_engine, prompt, max_new_tokens=16)
    assert "\ufffd" not in "".join(reply.pieces[:-1]), "only the last one may be cut off by the end of the answer"
    assert not reply.text.isascii()
    assert len(reply.pieces) < reply.done.completion_tokens, "some characters took several tokens"
    assert sum(event.tokens for event in reply.events if isinstance(event, Text)) == reply.done.completion_tokens


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_answer_and_other_seeds_other_answers(engine: WorkerProcess) -> None:
    params = {"temperature": 1, "max_new_tokens": 10}
    texts = [answer(engine, STORY, seed=seed, **params).text for seed in (1, 1, 2, 2**32 - 2)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_without_a_seed_answers_differ(engine: WorkerProcess) -> None:
    assert len({answer(engine, STORY, temperature=1, max_new_tokens=10).text for _ in range(3)}) > 1


@pytest.mark.parametrize(
    "narrow",
    [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 0.01}],
    ids=lambda key: next(iter(key)),
)
def test_sampling_from_a_single_candidate_is_greedy(engine: WorkerProcess, narrow: dict[str, float]) -> None:
    greedy = answer(engine, STORY)
    assert answer(engine, STORY, **{"temperature": 1.5, "seed": 3} | narrow).text == greedy.text


def test_the_error_for_no_allowed_token_names_the_loader(engine: WorkerProcess, loader: str) -> None:
    (token,) = ask(engine, "encode", text="z")
    with pytest.raises(GenerationFailed, match="leave no token") as failed:
        answer(engine, FRANCE, grammar_string='root ::= "z"', custom_token_bans=str(token))
    assert failed.value.loader == loader
    assert answer(engine, FRANCE, max_new_tokens=1).done.completion_tokens == 1


# -- several requests --------------------------------------------------------------------------------------------------


def test_after_a_cancelled_request_the_next_answer_is_right_and_reuses_the_evaluated_tokens(
    engine: WorkerProcess,
) -> None:
    forget(engine)
    expected = answer(engine, STORY)
    for tokens in (1, 4):
        forget(engine)
        long = engine.events("generate", prompt=STORY, params=parameters(max_new_tokens=500))
        for _ in range(tokens):
            next(long)
        long.close()  # type: ignore[attr-defined]
        again = answer(engine, STORY)
        assert again.text == expected.text
        assert again.done.cached_tokens == again.done.prompt_tokens - 1


def test_a_cancelled_answer_does_not_change_another(engine: WorkerProcess) -> None:
    forget(engine)
    expected = answer(engine, STORY)
    long = engine.events("generate", prompt=CODE, params=parameters(max_new_tokens=500))
    next(long)
    long.close()  # type: ignore[attr-defined]
    assert answer(engine, STORY).text == expected.text


def test_other_calls_are_answered_between_two_tokens(engine: WorkerProcess) -> None:
    long = engine.events("generate", prompt=STORY, params=parameters(max_new_tokens=500))
    next(long)
    assert ask(engine, "count", text="one two three") == 3
    assert isinstance(next(long), Text)
    long.close()  # type: ignore[attr-defined]


def test_an_invalid_request_does_not_block_later_ones(engine: WorkerProcess) -> None:
    for _ in range(2):
        with pytest.raises(InternalError, match="KeyError"):
            list(engine.events("generate", prompt=STORY, params={"stop": []}))
    assert answer(engine, STORY, max_new_tokens=3).done.completion_tokens == 3


def test_a_grammar_that_turns_out_too_complex_ends_its_own_answer_alone(engine: WorkerProcess, loader: str) -> None:
    crowd, tokens = Crowd(engine), 1500 if loader == "llama.cpp" else 120  # it is quick
    others = [crowd.ask(prompt, max_new_tokens=tokens, ban_eos_token=True) for prompt in (STORY, CODE)]
    with pytest.raises(OptionError, match="grammar_string"):
        crowd.answer(crowd.ask(FRANCE, grammar_string=TOO_COMPLEX))
    assert [crowd.answer(call).done.completion_tokens for call in others] == [tokens, tokens]


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_an_empty_prompt_is_answered(engine: WorkerProcess) -> None:
    assert answer(engine, "", max_new_tokens=5).done.prompt_tokens == 1


def test_the_error_for_a_too_long_prompt_states_its_length(engine: WorkerProcess, loader: str) -> None:
    with pytest.raises(PromptTooLong) as refused:
        answer(engine, "tell" + " tell" * 8999)
    assert (refused.value.tokens, refused.value.limit) == (9000, N_CTX - 1)
    assert answer(engine, FRANCE).done.completion_tokens == 20


@pytest.mark.parametrize(
    "text", ["Hello, world!", " leading", "猫と犬 🇫🇷", "<|im_start|>user\nhi<|im_end|>", "a\0b", "\n\n"]
)
def test_tokens_decode_to_the_text_they_came_from(engine: WorkerProcess, text: str) -> None:
    tokens = ask(engine, "encode", text=text)
    assert ask(engine, "decode", tokens=tokens) == text
    assert ask(engine, "count", text=text) == len(tokens)


def test_the_name_of_a_special_token_is_encoded_as_that_token(engine: WorkerProcess) -> None:
    assert len(ask(engine, "encode", text="<|im_start|>")) == 1


@pytest.mark.parametrize("token", [-1, 49152, 10**9])
def test_a_token_id_outside_the_vocabulary_is_refused(engine: WorkerProcess, token: int) -> None:
    with pytest.raises(OptionError):
        ask(engine, "decode", tokens=[1, token])


def test_invalid_unicode_is_answered(engine: WorkerProcess) -> None:
    assert answer(engine, "half \ud83d a pair", max_new_tokens=2).done.completion_tokens == 2
