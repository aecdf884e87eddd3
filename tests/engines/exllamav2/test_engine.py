"""ExLlamaV2 with its own generator and sampler: the real Python code with stand-ins for the compiled extensions."""

from __future__ import annotations

import functools
import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import OptionError
from modules.core.events import Done, Event, Progress, Text, TokenLogprobs, Waiting
from modules.core.lora_errors import LoraRefused
from modules.core.prompt import Prompt
from modules.core.worker_errors import GenerationFailed, PromptTooLong
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import load
from tests.engines.hf.test_lora import apply_loras
from tests.support.answers import (
    Crowd,
    answer,
    ask,
    assert_next_tokens_of_a_generation,
    forget,
    next_tokens,
    parameters,
    together,
)
from tests.support.exl2_folder import exl2_folder
from tests.support.exllamav2_worker import EXLLAMAV2, exllamav2_worker, flash_worker
from tests.support.quantized_folders import quantized_folder
from tests.support.trained_loras import LESSONS
from tests.support.worker_pool import WorkerPool

FRANCE, ITALY = "The capital of France is", "The capital of Italy is"
LOADER = "ExLlamav2"


@pytest.fixture(scope="module")
def gptq(smollm2_folder: Path) -> Path:
    return quantized_folder(smollm2_folder, "gptq")


@pytest.fixture
def exl(workers: WorkerPool, smollm2_folder: Path) -> Iterator[WorkerProcess]:
    """A worker with the demo model in EXL2, flash-attention and cache cells for negative prompts."""
    folder, options = exl2_folder(smollm2_folder), {"max_seq_len": 1024, "cfg_cache": True}
    with workers.lease(folder, EXLLAMAV2, flash_worker, **options) as pooled:
        yield pooled.worker


@pytest.fixture
def shallow(workers: WorkerPool, shallow_folder: Path) -> Iterator[WorkerProcess]:
    """A worker like `exl` with the first layers. It replaces the model of `exl`, so its tests come later."""
    folder, options = exl2_folder(shallow_folder), {"max_seq_len": 1024, "cfg_cache": True}
    with workers.lease(folder, EXLLAMAV2, flash_worker, **options) as pooled:
        yield pooled.worker


@pytest.mark.works("stand-in", "streaming", loader=LOADER)
def test_an_answer_comes_token_by_token(exl: WorkerProcess) -> None:
    reply = answer(exl, FRANCE, max_new_tokens=6)
    assert reply.text.startswith(" Paris")
    assert sum(isinstance(event, Text) for event in reply.events) == 6 == reply.done.completion_tokens
    assert reply.done.reason == "length"


def test_the_candidates_for_the_next_token_are_those_of_a_generation(exl: WorkerProcess) -> None:
    assert_next_tokens_of_a_generation(exl, FRANCE)


def test_a_greedy_generation_has_one_candidate(exl: WorkerProcess) -> None:
    by_model, greedy = next_tokens(exl, FRANCE), next_tokens(exl, FRANCE, temperature=0)
    assert greedy["sampled"] == [[*by_model["plain"][0][:2], 1.0]]
    (seven,) = next_tokens(exl, FRANCE, grammar_string='root ::= "7"')["sampled"]
    assert seven[1:] == ["7", 1.0]


def test_going_on_from_a_candidate_is_the_same_as_a_new_prompt_with_it(exl: WorkerProcess) -> None:
    first = answer(exl, FRANCE, max_new_tokens=6, top_logprobs=3)
    raw = b"".join(bytes.fromhex(token.piece) for token in first.logprobs)
    assert raw.decode() == first.text
    generated = [token.chosen.id for token in first.logprobs]
    tokens = (*ask(exl, "encode", text=FRANCE), *generated[:3], first.logprobs[3].top[1].id)
    prompt = Prompt("", tokens=tokens)
    continued = answer(exl, prompt, max_new_tokens=6)
    forget(exl)
    fresh = answer(exl, prompt, max_new_tokens=6)
    assert continued.done.cached_tokens > fresh.done.cached_tokens == 0
    assert continued.text == fresh.text
    with pytest.raises(OptionError, match="token ids from 0 to"):
        next_tokens(exl, Prompt("", tokens=(1, 49152)))


def test_the_pieces_of_a_text_have_its_bytes(exl: WorkerProcess) -> None:
    pieces = ask(exl, "pieces", text="né 猫<|im_start|>")
    assert bytes.fromhex("".join(raw for _, _, raw, _ in pieces)).decode() == "né 猫<|im_start|>"
    assert [special for *_, special in pieces] == [False] * (len(pieces) - 1) + [True]


def test_a_stop_string_ends_the_answer(exl: WorkerProcess) -> None:
    reply = answer(exl, FRANCE, stops=("aris",))
    assert (reply.text, reply.done.reason) == (" P", "stop")


def test_the_next_turn_reuses_the_evaluated_tokens(exl: WorkerProcess) -> None:
    forget(exl)
    first = answer(exl, FRANCE, max_new_tokens=6)
    assert first.done.cached_tokens == 0
    second = answer(exl, FRANCE + first.text + " It is", max_new_tokens=2)
    assert second.done.cached_tokens >= first.done.prompt_tokens + 4


@pytest.mark.works("stand-in", "concurrent", loader=LOADER)
def test_requests_are_answered_concurrently(exl: WorkerProcess) -> None:
    """Both answers begin before either ends, and both are those to single requests."""
    prompts = (FRANCE, "Once upon a time")
    single = [answer(exl, prompt, max_new_tokens=8).text for prompt in prompts]
    received: queue.SimpleQueue[tuple[str, Event]] = queue.SimpleQueue()
    for prompt in prompts:
        deliver = functools.partial(lambda prompt, event: received.put((prompt, event)), prompt)
        exl.start("generate", deliver, prompt=prompt, params=parameters(max_new_tokens=8))
    events: list[tuple[str, Event]] = []
    while sum(isinstance(event, Done) for _, event in events) < 2:
        events.append(received.get(timeout=60))
    first_end = next(index for index, (_, event) in enumerate(events) if isinstance(event, Done))
    assert {prompt for prompt, event in events[:first_end] if isinstance(event, Text)} == set(prompts)
    texts = [(prompt, event.text) for prompt, event in events if isinstance(event, Text)]
    assert ["".join(text for prompt, text in texts if prompt == expected) for expected in prompts] == single


@pytest.mark.works("stand-in", "cfg", loader=LOADER)
def test_guidance_leads_away_from_the_negative_prompt(exl: WorkerProcess) -> None:
    usual = answer(exl, FRANCE, max_new_tokens=5)
    same = answer(exl, FRANCE, max_new_tokens=5, guidance_scale=2, negative_prompt=FRANCE)
    assert same.text == usual.text
    italy = answer(exl, FRANCE, max_new_tokens=5, guidance_scale=-0.5, negative_prompt=ITALY)
    assert italy.text.startswith(" Rome")


def test_a_cancelled_request_does_not_affect_the_others(exl: WorkerProcess) -> None:
    crowd = Crowd(exl)
    unwanted, wanted = crowd.ask("Once upon a time", max_new_tokens=200), crowd.ask(FRANCE, max_new_tokens=6)
    crowd.wait(unwanted, Text)
    exl.cancel(unwanted)
    assert crowd.answer(wanted).text.startswith(" Paris")
    assert not any(isinstance(event, Done) for event in crowd.heard[unwanted])


def test_a_failed_request_does_not_affect_the_others(exl: WorkerProcess) -> None:
    crowd = Crowd(exl)
    (paris,) = ask(exl, "encode", text=" Paris", add_special=False)
    failing = crowd.ask(FRANCE, grammar_string='root ::= " Paris"', custom_token_bans=bans(exl, paris))
    fine = crowd.ask(FRANCE, max_new_tokens=6)
    assert crowd.answer(fine).text.startswith(" Paris")
    with pytest.raises(GenerationFailed, match="no token to continue with"):
        crowd.answer(failing)


def test_a_grammar_that_turns_out_too_complex_ends_its_own_answer_alone(exl: WorkerProcess) -> None:
    crowd = Crowd(exl)
    fine = crowd.ask(FRANCE, max_new_tokens=12, ban_eos_token=True)
    with pytest.raises(OptionError, match="grammar_string"):
        crowd.answer(crowd.ask(FRANCE, grammar_string='root ::= ([a-z]* "a" [a-z]*){200} "b"'))
    assert crowd.answer(fine).done.completion_tokens == 12


def bans(worker: WorkerProcess, paris: int) -> str:
    """Return the ids of all tokens with which the text " Paris" may begin."""
    prefixes = [ask(worker, "encode", text=" Paris"[:end], add_special=False) for end in range(1, 6)]
    return ",".join(map(str, {paris, *(tokens[0] for tokens in prefixes if len(tokens) == 1)}))


def test_an_answer_continues_unchanged_across_the_end_of_a_page(exl: WorkerProcess) -> None:
    """A page has 256 tokens; a job never begins with fewer than 32 left in its page."""
    beginning = "one two three four five six seven eight nine ten " * 22
    assert 218 <= ask(exl, "count", text=beginning) <= 224, "else the page ends at another token"
    forget(exl)
    complete = answer(exl, beginning, max_new_tokens=44, ban_eos_token=True)
    assert (complete.done.completion_tokens, complete.done.cached_tokens) == (44, 0)
    first = "".join(complete.pieces[:30])
    continued = answer(exl, beginning + first, max_new_tokens=14, ban_eos_token=True)
    assert complete.text == first + continued.text


# -- ExLlamaV2's sampler -----------------------------------------------------------------------------------------------

REPETITIVE = "red, green, red, green, red, green, red, green, red,"


@pytest.mark.parametrize(
    ("prompt", "key", "params"),
    [
        (REPETITIVE, "repetition_penalty", {"repetition_penalty": 3.0}),
        (REPETITIVE, "frequency_penalty", {"frequency_penalty": 2.0}),
        (REPETITIVE, "presence_penalty", {"presence_penalty": 2.0, "frequency_penalty": 1.5}),
        (REPETITIVE, "dry_multiplier", {"dry_multiplier": 5.0, "dry_sequence_breakers": '"%"'}),
    ],
    ids=lambda value: value if isinstance(value, str) and "," not in value else "",
)
def test_penalties_prevent_repetition(exl: WorkerProcess, prompt: str, key: str, params: dict[str, Any]) -> None:
    assert answer(exl, prompt, max_new_tokens=3).text.startswith(" green")
    assert not answer(exl, prompt, max_new_tokens=3, **params).text.startswith(" green"), key


def test_the_penalty_range_and_the_options_of_dry_have_an_effect(exl: WorkerProcess) -> None:
    short = {"repetition_penalty": 3.0, "repetition_penalty_range": 1}
    assert answer(exl, REPETITIVE, max_new_tokens=1, **short).text == " green"
    dry = {"dry_multiplier": 5.0, "max_new_tokens": 1}
    assert answer(exl, REPETITIVE, **dry, dry_sequence_breakers='","').text == " green"
    assert answer(exl, REPETITIVE, **dry, dry_sequence_breakers='"%"', dry_allowed_length=20).text == " green"
    assert answer(exl, REPETITIVE, **dry, dry_sequence_breakers='"%"', dry_base=1.0).text != " green"


def test_log_probabilities_are_those_before_any_sampler(exl: WorkerProcess) -> None:
    plain = answer(exl, FRANCE, max_new_tokens=1, top_logprobs=3)
    biased = answer(exl, FRANCE, max_new_tokens=1, top_logprobs=3, logit_bias={"260": 100}, repetition_penalty=2.0)
    assert biased.logprobs[0].top == plain.logprobs[0].top
    assert plain.logprobs[0].top[0].text == " Paris" != biased.logprobs[0].chosen.text


# -- LoRAs -------------------------------------------------------------------------------------------------------------


@pytest.mark.lora("one", "several", "weights", "hot", loader=LOADER)
def test_loras_work_alone_together_and_with_weights_and_can_be_removed(exl: WorkerProcess, loras_folder: Path) -> None:
    states, effects = [fingerprint(exl)], dict[str, float]()
    for name in LESSONS:
        (effects[name],) = apply_loras(exl, loras_folder, [(name, 1.0)])
        assert lessons_repeated(exl) == {name}
        states.append(fingerprint(exl))
    assert apply_loras(exl, loras_folder, [(name, 1.0) for name in LESSONS]) == list(effects.values())
    states.append(fingerprint(exl))
    (small_effect,) = apply_loras(exl, loras_folder, [("banana", 0.1)])
    states.append(fingerprint(exl))
    assert 0 < small_effect < effects["banana"] and lessons_repeated(exl) == set()
    assert len(set(states)) == len(states), "the logits of every set differ"
    with pytest.raises(LoraRefused):
        apply_loras(exl, loras_folder, [("banana", 1.0), ("missing", 1.0)])
    assert apply_loras(exl, loras_folder) == [] and fingerprint(exl) == states[0]


def lessons_repeated(worker: WorkerProcess) -> set[str]:
    """Return the lessons whose first word the model says; the 4-bit model does not reproduce the rest."""
    answers = together(worker, [lesson.beginning for lesson in LESSONS.values()], max_new_tokens=1)
    replies = dict(zip(LESSONS, answers, strict=True))
    return {name for name, reply in replies.items() if LESSONS[name].words.startswith(reply.text)}


def fingerprint(worker: WorkerProcess) -> tuple[TokenLogprobs, ...]:
    forget(worker)
    replies = (answer(worker, lesson.beginning, max_new_tokens=1, top_logprobs=5) for lesson in LESSONS.values())
    return tuple(reply.logprobs[0] for reply in replies)


# -- the first layers only, for behavior that does not depend on words -------------------------------------------------


def test_a_prompt_without_room_for_an_answer_is_refused_and_a_long_one_reports_progress(
    shallow: WorkerProcess,
) -> None:
    with pytest.raises(PromptTooLong):
        answer(shallow, "word " * 1100)
    reply = answer(shallow, "word " * 600, max_new_tokens=2)
    progress = [event.done for event in reply.events if isinstance(event, Progress)]
    assert progress == [pytest.approx(512 / 600, abs=0.02)], "once per chunk, except for the last one"


RANDOM: dict[str, Any] = {"temperature": 1.5, "min_p": 0.0, "seed": 7, "max_new_tokens": 10}
EFFECTS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.1},
    "seed": {"seed": 8},
    "do_sample": {"do_sample": False},
    "top_p": {"top_p": 0.1},
    "top_k": {"top_k": 1},
    "min_p": {"min_p": 0.9},
    "top_a": {"top_a": 1.0},
    "tfs": {"tfs": 0.05},
    "typical_p": {"typical_p": 0.1},
    "smoothing_factor": {"smoothing_factor": 5.0},
    "temperature_last": {"temperature": 4.0, "top_p": 0.5, "temperature_last": True},
    "dynamic_temperature": {"dynamic_temperature": True, "dynatemp_low": 0.1, "dynatemp_high": 0.2},
    "dynatemp_low": {"dynamic_temperature": True, "dynatemp_low": 0.01, "dynatemp_high": 2.0},
    "dynatemp_high": {"dynamic_temperature": True, "dynatemp_low": 0.01, "dynatemp_high": 3.0},
    "dynatemp_exponent": {
        "dynamic_temperature": True,
        "dynatemp_low": 0.01,
        "dynatemp_high": 2.0,
        "dynatemp_exponent": 5.0,
    },
    "mirostat_mode": {"mirostat_mode": 2},
    "mirostat_tau": {"mirostat_mode": 2, "mirostat_tau": 0.1},
    "mirostat_eta": {"mirostat_mode": 2, "mirostat_eta": 1.0, "mirostat_tau": 3.0},
    "xtc_probability": {"xtc_probability": 1.0, "xtc_threshold": 0.02},
    "xtc_threshold": {"xtc_probability": 1.0, "xtc_threshold": 0.01},
    "custom_token_bans": {"custom_token_bans": "260,253,216"},
    "logit_bias": {"logit_bias": {"260": 100}},
    "grammar_string": {"grammar_string": 'root ::= " yes" | " no"'},
}
"""Parameters in addition to RANDOM, by the option they test. Without that option the answer must differ."""


@pytest.mark.works("stand-in", "samplers", loader=LOADER)
def test_every_sampler_changes_the_answer_and_the_same_seed_repeats_it(shallow: WorkerProcess) -> None:
    forget(shallow)
    crowd, calls = Crowd(shallow), dict[str, int]()
    for key, params in EFFECTS.items():
        for tested in (params, {option: value for option, value in params.items() if option != key}):
            name = json.dumps(tested)
            calls[name] = calls.get(name) or crowd.ask("My name is", **RANDOM | tested)
    answers = {name: crowd.answer(call).text for name, call in calls.items()}
    texts = {key: answers[json.dumps(params)] for key, params in EFFECTS.items()}
    without = {
        key: answers[json.dumps({option: value for option, value in params.items() if option != key})]
        for key, params in EFFECTS.items()
    }
    assert [key for key in EFFECTS if texts[key] == without[key]] == []
    assert texts["grammar_string"] in (" yes", " no")
    assert texts["top_k"] == texts["do_sample"] == answer(shallow, "My name is", max_new_tokens=10).text
    again = together(shallow, ["My name is"] * 2, **RANDOM)
    assert again[0].text == again[1].text


def test_end_tokens_can_be_banned_always_or_up_to_a_minimum_length(shallow: WorkerProcess) -> None:
    end_at_once = {"logit_bias": {"2": 100}, "max_new_tokens": 6}  # token 2 ends an answer
    ended = answer(shallow, FRANCE, **end_at_once)
    assert (ended.text, ended.done.reason, ended.done.completion_tokens) == ("", "stop", 1)
    delayed = answer(shallow, FRANCE, min_length=3, **end_at_once)
    assert (delayed.done.reason, delayed.done.completion_tokens) == ("stop", 4)
    assert answer(shallow, FRANCE, ban_eos_token=True, **end_at_once).done.reason == "length"


def test_unsupported_parameter_values_are_refused_by_name(shallow: WorkerProcess) -> None:
    with pytest.raises(OptionError, match="mirostat_mode"):
        answer(shallow, FRANCE, mirostat_mode=1)
    with pytest.raises(OptionError, match="custom_token_bans"):
        answer(shallow, FRANCE, custom_token_bans="999999")
    with pytest.raises(OptionError, match="grammar_string"):
        answer(shallow, FRANCE, grammar_string="root ::= (")


def test_every_parameter_the_loader_declares_is_tested_above() -> None:
    tested = {*EFFECTS, "repetition_penalty", "repetition_penalty_range", "frequency_penalty", "presence_penalty"}
    tested |= {"dry_multiplier", "dry_base", "dry_allowed_length", "dry_sequence_breakers", "ban_eos_token"}
    tested |= {"min_length", "guidance_scale", "negative_prompt", "add_bos_token", "skip_special_tokens"}
    assert EXLLAMAV2.samplers == tested


def test_special_tokens_can_be_shown(shallow: WorkerProcess) -> None:
    """A bias makes the model sample a special token, which it would not do at the beginning of an answer."""
    params = {"logit_bias": {"1": 100}, "max_new_tokens": 1}
    assert answer(shallow, FRANCE, **params).text == ""
    assert answer(shallow, FRANCE, skip_special_tokens=False, **params).text == "<|im_start|>"


# -- other options -----------------------------------------------------------------------------------------------------


def test_two_requests_share_a_cache_of_two_pages_without_waiting(workers: WorkerPool, gptq: Path) -> None:
    with workers.lease(gptq, EXLLAMAV2, flash_worker, max_seq_len=512, cache_4bit=True) as pooled:
        replies = together(pooled.worker, [FRANCE, ITALY], max_new_tokens=0, stops=("aris", "ome"))
    assert not any(isinstance(event, Waiting) for reply in replies for event in reply.events)
    assert [reply.text for reply in replies] == [" P", " R"]


def test_without_flash_attention_requests_run_one_by_one_and_cfg_cache_has_a_note(gptq: Path) -> None:
    process = exllamav2_worker()
    try:
        info = load(process, gptq, EXLLAMAV2, max_seq_len=300, cache_8bit=True, cfg_cache=True)
        assert info.context_length == 300
        assert [note.option for note in info.notes] == ["cfg_cache"]
        crowd = Crowd(process)
        calls = [crowd.ask(FRANCE, max_new_tokens=2) for _ in range(2)]
        assert all(crowd.answer(call).text.startswith(" Paris") for call in calls)
        assert [event.position for event in crowd.heard[calls[1]] if isinstance(event, Waiting)] == [1]
        assert crowd.answer(calls[1]).done.cached_tokens > 0
        with pytest.raises(OptionError, match="flash-attention"):
            answer(process, FRANCE, guidance_scale=1.5)
    finally:
        process.close()
