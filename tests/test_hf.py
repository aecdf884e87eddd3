"""The Transformers engine with a real model: its answers are those of transformers alone, whatever is kept or cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules import machine
from modules.events import Info, Progress, Result, Waiting
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


def test_tokens_are_those_of_llamacpp_and_so_is_the_beginning_of_an_answer(
    hf: WorkerProcess, worker: WorkerProcess, smollm2: Path
) -> None:
    load(worker, smollm2, n_ctx=512)
    for text in (*PROMPTS, FRANCE, "猫と犬 🇫🇷 in 2024", "  two  spaces\n\n\ttab", "It's 12345.67!"):
        assert ask(hf, "encode", text=text) == ask(worker, "encode", text=text)
    assert answer(hf, FRANCE, max_new_tokens=5).text == answer(worker, FRANCE, max_new_tokens=5).text


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


def test_a_banned_end_token_does_not_end_it(hf: WorkerProcess) -> None:
    question = CHAT.replace("Write three sentences about the moon.", "Say yes.")
    free = answer(hf, question, max_new_tokens=60)
    assert free.done.reason == "stop"
    more = free.done.completion_tokens + 5
    assert answer(hf, question, max_new_tokens=more, ban_eos_token=True).done.completion_tokens == more


def test_special_tokens_are_shown_if_that_is_wished(hf: WorkerProcess) -> None:
    wishes: dict[str, Any] = {"logit_bias": {"0": 100}, "max_new_tokens": 2}
    assert answer(hf, STORY, **wishes).text == ""
    assert answer(hf, STORY, skip_special_tokens=False, **wishes).text == "<|endoftext|>" * 2


# -- sampling ----------------------------------------------------------------------------------------------------------


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


def test_an_answer_that_nobody_wants_any_more_ends_at_once(hf: WorkerProcess) -> None:
    long = hf.events("generate", prompt=STORY, params=parameters(max_new_tokens=0, ban_eos_token=True))
    next(long)
    long.close()  # type: ignore[attr-defined]
    began = time.monotonic()
    assert answer(hf, FRANCE, max_new_tokens=1).done.completion_tokens == 1
    assert time.monotonic() - began < 30, "8,000 tokens would take minutes"


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_a_long_prompt_tells_its_progress(hf: WorkerProcess) -> None:
    forget(hf)
    long = answer(hf, "tell" + " tell" * 1099, max_new_tokens=1)
    told = [event.done for event in long.events if isinstance(event, Progress)]
    assert told == pytest.approx([512 / 1100, 1024 / 1100])
