"""The Transformers engine with a real model: its answers are those of transformers alone, whatever is kept or cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules import machine
from modules.errors import InternalError, OptionError, PromptTooLong
from modules.events import Info, Progress, Result, Text, Waiting
from modules.process import WorkerProcess
from tests.answers import Crowd, answer, ask, forget, parameters, together
from tests.conftest import TRANSFORMERS, load, load_arguments
from tests.hf_reference import TOP, alone

STORY = "Once upon a time, in a small village by the sea,"
CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
    "<|im_start|>user\nWrite three sentences about the moon.<|im_end|>\n<|im_start|>assistant\n"
)
CODE = "def fibonacci(n):\n    "
FRANCE = "The capital of France is"
PROMPTS = [STORY, CHAT, CODE]
TOKENS = 32

BITSANDBYTES = {"dtype": "bfloat16", "device_map": {"": "cpu"}}
FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float16"}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "float32": ({}, {"dtype": "float32"}),
    "bfloat16": ({"bf16": True}, {"dtype": "bfloat16"}),
    "8 bits": ({"load_in_8bit": True}, BITSANDBYTES | {"quantization_config": {"load_in_8bit": True}}),
    "4 bits": ({"load_in_4bit": True}, BITSANDBYTES | {"quantization_config": FOUR_BITS}),
    "eager": ({"use_eager_attention": True}, {"dtype": "float32", "attn_implementation": "eager"}),
}
"""Our options, and the words that mean the same to `from_pretrained`."""


@pytest.fixture(scope="module")
def told() -> list[Progress]:
    """What the load of `hf` told of its progress."""
    return []


@pytest.fixture(scope="module")
def info() -> list[Info]:
    """What it told of the model."""
    return []


@pytest.fixture(scope="module")
def hf(smollm2_folder: Path, told: list[Progress], info: list[Info]) -> Iterator[WorkerProcess]:
    """In float32, so that it does not matter how many tokens are evaluated at once."""
    process = WorkerProcess()
    for event in process.events("load", **load_arguments(smollm2_folder, TRANSFORMERS)):
        told.extend([event] if isinstance(event, Progress) else [])
        info.extend([Info.from_json(event.value)] if isinstance(event, Result) else [])
    yield process
    process.close()


# -- the library's own answers -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_greedy_answer_is_that_of_transformers_alone(worker: WorkerProcess, smollm2_folder: Path, way: str) -> None:
    options, words = WAYS[way]
    expected = alone(smollm2_folder, PROMPTS, TOKENS, **words)
    load(worker, smollm2_folder, TRANSFORMERS, **options)
    for prompt, theirs in zip(PROMPTS, expected, strict=True):
        forget(worker)
        ours = answer(worker, prompt, max_new_tokens=TOKENS, top_logprobs=TOP)
        assert ours.text == theirs["text"]
        assert ours.done.completion_tokens == len(theirs["tokens"])
        for chances, best in zip(ours.chances, theirs["logprobs"], strict=False):
            assert [each.logprob for each in chances.top] == pytest.approx(best, abs=1e-4)
            assert chances.chosen.logprob == chances.top[0].logprob, "greedy takes the likeliest"


@pytest.mark.slow
def test_tokens_are_those_of_llamacpp_and_so_is_the_beginning_of_an_answer(
    hf: WorkerProcess, worker: WorkerProcess, smollm2: Path
) -> None:
    load(worker, smollm2, n_ctx=512)
    for text in (*PROMPTS, FRANCE, "猫と犬 🇫🇷 in 2024", "  two  spaces\n\n\ttab", "It's 12345.67!"):
        assert ask(hf, "encode", text=text) == ask(worker, "encode", text=text)
    assert answer(hf, FRANCE, max_new_tokens=5).text == answer(worker, FRANCE, max_new_tokens=5).text


def test_log_probabilities_come_sorted_and_as_many_as_were_asked_for(hf: WorkerProcess) -> None:
    drawn = answer(hf, FRANCE, temperature=2, seed=1, min_p=0, top_logprobs=7)
    assert len(drawn.chances) == drawn.done.completion_tokens
    for each in drawn.chances:
        logprobs = [candidate.logprob for candidate in each.top]
        assert len(logprobs) == 7
        assert logprobs == sorted(logprobs, reverse=True)
        assert each.chosen.logprob <= logprobs[0] <= 0
    assert any(each.chosen not in each.top for each in drawn.chances), "hot enough to leave the beaten track"


def test_no_log_probabilities_are_told_unless_asked_for_and_none_besides_the_chosen_if_0(hf: WorkerProcess) -> None:
    assert not answer(hf, FRANCE).chances
    assert [each.top for each in answer(hf, FRANCE, top_logprobs=0).chances] == [()] * 20


# -- loading -----------------------------------------------------------------------------------------------------------


def test_a_load_tells_how_far_it_is(hf: WorkerProcess, told: list[Progress]) -> None:
    done = [progress.done for progress in told]
    assert {progress.stage for progress in told} == {"weights"}
    assert done == sorted(done)
    assert len(done) > 50
    assert done[-1] == 1


def test_what_is_known_of_the_model_is_what_its_files_say(hf: WorkerProcess, info: list[Info]) -> None:
    (about,) = info
    assert about.context_length == 8192
    assert (about.bos_token, about.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>" in about.chat_template
    assert about.notes == ()


def test_the_memory_told_is_that_of_the_process(hf: WorkerProcess, info: list[Info]) -> None:
    assert info[0].memory == pytest.approx(machine.resident_memory(hf.pid), rel=0.1)


# -- the cache ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [STORY, CHAT], ids=["story", "chat"])
def test_the_same_prompt_again_is_not_evaluated_again_and_answers_the_same(hf: WorkerProcess, prompt: str) -> None:
    forget(hf)
    first, second = answer(hf, prompt), answer(hf, prompt)
    assert first.done.cached_tokens == 0
    assert second.done.cached_tokens == second.done.prompt_tokens - 1
    assert second.text == first.text


def test_a_second_turn_evaluates_only_what_is_new(hf: WorkerProcess) -> None:
    forget(hf)
    first = answer(hf, STORY, max_new_tokens=10)
    known = first.done.prompt_tokens + 10 - 1  # the last token drawn was not evaluated
    second = answer(hf, f"{STORY}{first.text} But then", max_new_tokens=5)
    assert second.done.cached_tokens == known
    forget(hf)
    assert answer(hf, f"{STORY}{first.text} But then", max_new_tokens=5).text == second.text


def test_two_conversations_in_turn_both_stay(hf: WorkerProcess) -> None:
    forget(hf)
    for _ in range(2):
        known = [answer(hf, prompt, max_new_tokens=2).done for prompt in (STORY, CHAT, "The capital of Italy is")]
    assert [done.prompt_tokens - done.cached_tokens for done in known] == [1, 1, 1]


def test_a_short_beginning_in_common_does_not_cut_a_long_conversation(hf: WorkerProcess) -> None:
    forget(hf)
    long = STORY + " there lived a fisherman who had three daughters and a boat."
    answer(hf, long, max_new_tokens=2)
    answer(hf, "Once upon a dream", max_new_tokens=2)
    again = answer(hf, long, max_new_tokens=2).done
    assert again.cached_tokens == again.prompt_tokens - 1


# -- where it ends -----------------------------------------------------------------------------------------------------


def test_the_answer_ends_after_as_many_tokens_as_were_asked_for(hf: WorkerProcess) -> None:
    short = answer(hf, STORY, max_new_tokens=7)
    assert (short.done.reason, short.done.completion_tokens) == ("length", 7)
    assert sum(event.tokens for event in short.events if isinstance(event, Text)) == 7


def test_text_comes_token_by_token(hf: WorkerProcess) -> None:
    said = answer(hf, STORY)
    assert [event.tokens for event in said.events if isinstance(event, Text) and event.text] == [1] * 20


def test_an_end_token_ends_the_answer_and_is_not_shown(hf: WorkerProcess) -> None:
    question = CHAT.replace("Write three sentences about the moon.", "Name the capital of France in one sentence.")
    said = answer(hf, question, max_new_tokens=100)
    assert said.done.reason == "stop"
    assert "Paris" in said.text
    assert "<|" not in said.text


def test_a_banned_end_token_does_not_end_it(hf: WorkerProcess) -> None:
    question = CHAT.replace("Write three sentences about the moon.", "Say yes.")
    free = answer(hf, question, max_new_tokens=60)
    assert free.done.reason == "stop"
    more = free.done.completion_tokens + 5
    assert answer(hf, question, max_new_tokens=more, ban_eos_token=True).done.completion_tokens == more


def test_a_stop_string_across_tokens_is_never_shown(hf: WorkerProcess) -> None:
    free = answer(hf, STORY, max_new_tokens=24)
    pieces = free.pieces
    for place in (5, 19):  # from the middle of one token to the middle of the third
        stop = (pieces[place][1:] or pieces[place]) + pieces[place + 1] + pieces[place + 2][:1]
        stopped = answer(hf, STORY, max_new_tokens=24, stops=("never said", stop))
        assert stopped.text == free.text[: free.text.index(stop)], stop
        assert stopped.done.reason == "stop"
        assert stopped.done.completion_tokens <= place + 3, "nothing is evaluated in vain"


@pytest.mark.parametrize(
    "prompt", ["猫猫猫猫猫猫猫猫", "日本語、日本語、日本語、", "a 🦄 a 🦄 a 🦄 a 🦄 a", "한국어 한국어 한국어"]
)
def test_only_whole_characters_go_out_whatever_the_script(hf: WorkerProcess, prompt: str) -> None:
    said = answer(hf, prompt, max_new_tokens=16)
    assert "\ufffd" not in "".join(said.pieces[:-1]), "but for one that the end of the answer cuts in two"
    assert not said.text.isascii()
    assert len(said.pieces) < said.done.completion_tokens, "some characters took several tokens"
    assert sum(event.tokens for event in said.events if isinstance(event, Text)) == said.done.completion_tokens


def test_special_tokens_are_shown_if_that_is_wished(hf: WorkerProcess) -> None:
    wishes: dict[str, Any] = {"logit_bias": {"0": 100}, "max_new_tokens": 2}
    assert answer(hf, STORY, **wishes).text == ""
    assert answer(hf, STORY, skip_special_tokens=False, **wishes).text == "<|endoftext|>" * 2


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_answer_and_another_seed_another(hf: WorkerProcess) -> None:
    wishes = {"temperature": 1, "max_new_tokens": 10}
    drawn = [answer(hf, STORY, seed=seed, **wishes).text for seed in (1, 1, 2, 2**32 - 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(
    "narrow", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 0.01}], ids=lambda each: next(iter(each))
)
def test_drawing_from_one_candidate_alone_is_greedy(hf: WorkerProcess, narrow: dict[str, float]) -> None:
    greedy = answer(hf, STORY)
    assert answer(hf, STORY, **{"temperature": 1.5, "seed": 3} | narrow).text == greedy.text


def test_banned_and_biased_tokens_are_not_drawn_or_always(hf: WorkerProcess) -> None:
    (paris,) = ask(hf, "encode", text=" Paris")
    (rome,) = ask(hf, "encode", text=" Rome")
    one: dict[str, Any] = {"max_new_tokens": 1}
    assert answer(hf, FRANCE, **one).text == " Paris"
    assert answer(hf, FRANCE, custom_token_bans=str(paris), **one).text != " Paris"
    assert answer(hf, FRANCE, logit_bias={str(rome): 100}, **one).text == " Rome"


def test_a_grammar_is_followed(hf: WorkerProcess) -> None:
    said = answer(hf, "Is the sky blue?", grammar_string='root ::= " yes" | " no"')
    assert said.text in (" yes", " no")
    assert said.done.reason == "stop"


def test_guidance_leads_away_from_the_negative_prompt(hf: WorkerProcess) -> None:
    plain = answer(hf, FRANCE)
    assert answer(hf, FRANCE, guidance_scale=1.5, negative_prompt=FRANCE).text == plain.text, "away from itself"
    led = answer(hf, FRANCE, guidance_scale=2.5, negative_prompt="The capital of Italy is")
    assert led.text != plain.text


def test_guessing_from_earlier_text_changes_nothing_of_the_answer(hf: WorkerProcess) -> None:
    prompt = "one two three four one two three four one two three four one two"
    for wishes in ({}, {"temperature": 1.0, "seed": 5}, {"repetition_penalty": 1.2}):
        forget(hf)
        plain = answer(hf, prompt, max_new_tokens=24, top_logprobs=1, **wishes)
        forget(hf)
        guessed = answer(hf, prompt, max_new_tokens=24, top_logprobs=1, prompt_lookup_num_tokens=4, **wishes)
        assert guessed.text == plain.text
        assert guessed.done.completion_tokens == plain.done.completion_tokens
        assert answer(hf, prompt + plain.text, max_new_tokens=1).done.cached_tokens > 24


# -- several calls -----------------------------------------------------------------------------------------------------


def test_answers_given_together_are_those_given_alone(hf: WorkerProcess) -> None:
    prompts = [STORY, FRANCE, CODE, CHAT, "猫猫猫猫猫猫猫猫", "one"]
    forget(hf)
    expected = [answer(hf, prompt, max_new_tokens=12).text for prompt in prompts]
    forget(hf)
    assert [each.text for each in together(hf, prompts, max_new_tokens=12)] == expected
    assert [each.text for each in together(hf, prompts, max_new_tokens=12)] == expected, "from what was kept"


def test_who_has_to_wait_is_told_so_and_others_are_written_at_once(hf: WorkerProcess) -> None:
    crowd = Crowd(hf)
    calls = [crowd.ask(f"{number} {STORY}", max_new_tokens=12, ban_eos_token=True) for number in range(5)]
    heard = [crowd.wait(call) for call in calls]
    assert [any(isinstance(event, Waiting) for event in events) for events in heard] == [False] * 4 + [True]


def test_cancelling_in_the_middle_leaves_the_next_answer_right_and_keeps_what_was_evaluated(hf: WorkerProcess) -> None:
    forget(hf)
    expected = answer(hf, STORY)
    for tokens in (1, 4):
        forget(hf)
        long = hf.events("generate", prompt=STORY, params=parameters(max_new_tokens=500))
        for _ in range(tokens):
            next(long)
        long.close()  # type: ignore[attr-defined]
        again = answer(hf, STORY)
        assert again.text == expected.text
        assert again.done.cached_tokens == again.done.prompt_tokens - 1


def test_an_answer_that_nobody_wants_any_more_ends_at_once(hf: WorkerProcess) -> None:
    long = hf.events("generate", prompt=STORY, params=parameters(max_new_tokens=0, ban_eos_token=True))
    next(long)
    long.close()  # type: ignore[attr-defined]
    began = time.monotonic()
    assert answer(hf, FRANCE, max_new_tokens=1).done.completion_tokens == 1
    assert time.monotonic() - began < 30, "8,000 tokens would take minutes"


def test_a_request_that_cannot_be_understood_does_not_block_those_after_it(hf: WorkerProcess) -> None:
    for _ in range(2):
        with pytest.raises(InternalError, match="KeyError"):
            list(hf.events("generate", prompt=STORY, params={"stop": []}))
    assert answer(hf, STORY, max_new_tokens=3).done.completion_tokens == 3


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_an_empty_prompt_is_answered(hf: WorkerProcess) -> None:
    assert answer(hf, "", max_new_tokens=5).done.prompt_tokens == 1


def test_a_prompt_that_does_not_fit_says_how_long_it_is(hf: WorkerProcess) -> None:
    with pytest.raises(PromptTooLong) as refused:
        answer(hf, "tell " * 9000)
    assert (refused.value.tokens, refused.value.limit) == (9001, 8191)


def test_a_long_prompt_tells_its_progress(hf: WorkerProcess) -> None:
    forget(hf)
    long = answer(hf, "tell" + " tell" * 1099, max_new_tokens=1)
    told = [event.done for event in long.events if isinstance(event, Progress)]
    assert told == pytest.approx([512 / 1100, 1024 / 1100])


@pytest.mark.parametrize(
    "text", ["Hello, world!", " leading", "猫と犬 🇫🇷", "<|im_start|>user\nhi<|im_end|>", "a\0b", "\n\n"]
)
def test_tokens_decode_to_the_text_they_came_from(hf: WorkerProcess, text: str) -> None:
    tokens = ask(hf, "encode", text=text)
    assert ask(hf, "decode", tokens=tokens) == text
    assert ask(hf, "count", text=text) == len(tokens)


@pytest.mark.parametrize("token", [-1, 49152, 10**9])
def test_a_token_that_the_vocabulary_lacks_is_refused(hf: WorkerProcess, token: int) -> None:
    with pytest.raises(OptionError):
        ask(hf, "decode", tokens=[1, token])


def test_text_that_is_no_proper_unicode_is_answered(hf: WorkerProcess) -> None:
    assert answer(hf, "half \ud83d a pair", max_new_tokens=2).done.completion_tokens == 2
