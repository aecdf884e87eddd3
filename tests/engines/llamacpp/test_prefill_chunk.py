"""The share of prompts in a batch follows the speed of the machine."""

from __future__ import annotations

from modules.engines.llamacpp.prefill_chunk import MIN_TOKENS, SECONDS, LongPromptTurns, PrefillChunk


def after_steps(seconds_per_token: float, fixed_seconds: float = 0.0, steps: int = 20) -> int:
    chunk = PrefillChunk()
    for _ in range(steps):
        chunk.observe(chunk.tokens, fixed_seconds + chunk.tokens * seconds_per_token)
    return chunk.tokens


def test_a_step_takes_the_time_that_it_may() -> None:
    assert abs(after_steps(0.001) * 0.001 - SECONDS) <= 0.001
    assert abs(after_steps(0.0001, fixed_seconds=0.01) * 0.0001 + 0.01 - SECONDS) <= 0.001


def test_on_a_slow_machine_prompts_still_get_some_tokens() -> None:
    assert after_steps(0.1) == MIN_TOKENS


def test_one_slow_step_halves_the_share_and_steps_of_answers_alone_say_nothing() -> None:
    chunk = PrefillChunk()
    for tokens in (64, 128, 128):
        chunk.observe(tokens, SECONDS)
    assert chunk.tokens == 8 * MIN_TOKENS, "it at most doubles at a time"
    chunk.observe(1, 1000.0)
    assert chunk.tokens == 8 * MIN_TOKENS
    chunk.observe(128, 1000.0)
    assert chunk.tokens == 4 * MIN_TOKENS


def test_long_prompts_sit_out_every_other_step_in_which_an_answer_begins() -> None:
    turns = LongPromptTurns()
    assert not turns.sit_out(False)
    assert [turns.sit_out(True) for _ in range(4)] == [True, False, True, False], "nobody is kept waiting for ever"
    assert [turns.sit_out(begins) for begins in (True, False, True)] == [True, False, True]
