"""The llamacpp_HF engine: the logits of llama.cpp, the samplers of transformers, and the choice of a tokenizer.

Tests that compare numbers use the first layers of the demo model, the others the tiny model.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.errors import OptionError, Unsupported
from modules.core.events import Progress, Waiting
from modules.core.worker_errors import PromptTooLong
from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import LLAMA
from tests.engines.hf.sampling.test_grammar import SHAPES
from tests.support.answers import Answer, Crowd, answer, ask, forget, parameters
from tests.support.llama_library import installed_build, reference_answers
from tests.support.log_likelihoods import evaluate, expected_logprobs
from tests.support.shallow_gguf import shallow_gguf
from tests.support.tiny_model import CONTEXT
from tests.support.worker_pool import Pooled, WorkerPool

LLAMACPP_HF = LOADERS["llamacpp_HF"]
# Two threads would wait for each other if other processes use the CPUs as well.
THREADS = {"threads": 1, "threads_batch": 1}
N_CTX = 2048
STORY = "Once upon a time, in a small village by the sea,"
CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
    "<|im_start|>user\nWrite three sentences about the moon.<|im_end|>\n<|im_start|>assistant\n"
)
CODE = "def fibonacci(n):\n    "
FRANCE = "The capital of France is"
TEXTS = [STORY, CHAT, CODE, "猫と犬 🇫🇷 in 2024", "  two  spaces\n\n\ttab", "It's 12345.67!"]
END, START = 2, 1  # <|im_end|>, <|im_start|>


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Path:
    """The demo model's first layers."""
    return shallow_gguf(smollm2)


@pytest.fixture
def hf(model: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    """A worker with all options that enable further functions."""
    with workers.lease(model, LLAMACPP_HF, n_ctx=N_CTX, cfg_cache=True, logits_all=True, **THREADS) as pooled:
        yield pooled.worker


@pytest.fixture
def plain(model: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    with workers.lease(model, LLAMACPP_HF, n_ctx=N_CTX, **THREADS) as pooled:
        yield pooled.worker


@pytest.fixture(scope="module")
def llama(model: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    """A worker with the same file and the loader llama.cpp."""
    with workers.lease(model, LLAMA, n_ctx=N_CTX, **THREADS) as pooled:
        yield pooled.worker


@pytest.fixture
def tiny_hf(tiny: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    with workers.lease(tiny, LLAMACPP_HF, n_ctx=512, cfg_cache=True, **THREADS) as pooled:
        yield pooled.worker


@pytest.fixture(scope="module")
def tiny_llama(tiny: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    """A worker with the tiny model and the loader llama.cpp."""
    with workers.lease(tiny, LLAMA, n_ctx=512, **THREADS) as pooled:
        yield pooled.worker


@pytest.fixture(scope="module")
def reference(model: Path) -> dict[str, Any]:
    """Return the answer of `llama_cpp.Llama` to FRANCE."""
    request = {"path": str(model), "prompts": [FRANCE], "max_tokens": 40, "n_ctx": N_CTX, "threads": 1}
    request |= {"flash_attn": True, "repacks": installed_build().repacks, "logits": True}
    (reply,) = reference_answers(request)
    return reply


# -- llama.cpp's logits ------------------------------------------------------------------------------------------------


def test_the_logits_of_every_position_are_those_of_llama_cpp(hf: WorkerProcess, reference: dict[str, Any]) -> None:
    tokens = ask(hf, "encode", text=FRANCE)
    ours = np.array(ask(hf, "logits", tokens=tokens))
    assert ours.shape == (len(tokens), 49152)
    assert np.abs(ours - np.array(reference["logits"])).max() < 1e-4


def test_logits_do_not_depend_on_the_batch_size(model: Path, workers: WorkerPool, reference: dict[str, Any]) -> None:
    with workers.lease(model, LLAMACPP_HF, n_ctx=256, n_batch=2, logits_all=True, **THREADS) as pooled:
        tokens = ask(pooled.worker, "encode", text=FRANCE)
        in_batches, single = (np.array(ask(pooled.worker, "logits", tokens=tokens[:end])) for end in (5, 1))
        assert in_batches.shape == (5, 49152)
        assert np.abs(in_batches[:1] - single).max() < 1e-4
        assert np.abs(in_batches - np.array(reference["logits"])).max() < 1e-4
        reply = answer(pooled.worker, FRANCE, max_new_tokens=1)
        assert reference["text"].startswith(reply.text)


def test_log_likelihoods_are_those_of_the_loader_llama_cpp_and_conversations_stay(
    hf: WorkerProcess, llama: WorkerProcess, reference: dict[str, Any], tmp_path: Path
) -> None:
    tokens = ask(hf, "encode", text=FRANCE)
    ours = np.array(evaluate(hf, tokens, 2).logprobs)
    assert np.abs(ours - expected_logprobs(np.array(reference["logits"]), tokens, 2)).max() < 1e-4
    forget(hf)
    conversation = f"{STORY} {CODE}" * 5
    answer(hf, conversation, max_new_tokens=1)
    window = ask(hf, "encode", text=STORY * 40)
    theirs = evaluate(llama, window, 50, keep=tmp_path / "kept")
    compared = evaluate(hf, window, 50, against=tmp_path / "kept")
    assert compared.logprobs == pytest.approx(theirs.logprobs, abs=1e-2)  # flash attention, and other batches
    assert max(compared.kl) < 1e-4
    done = answer(hf, conversation, max_new_tokens=1).done
    assert done.cached_tokens == done.prompt_tokens - 1


def test_the_greedy_answer_is_that_of_the_llama_class(plain: WorkerProcess, reference: dict[str, Any]) -> None:
    ours = answer(plain, FRANCE, max_new_tokens=40, top_logprobs=5)
    assert ours.text == reference["text"]
    for token, expected in zip(ours.logprobs, reference["logprobs"], strict=False):
        assert [candidate.logprob for candidate in token.top] == pytest.approx(expected, abs=1e-4)


def answer_with_empty_cache(worker: WorkerProcess, prompt: str, **params: Any) -> Answer:
    """Clear the cache before the request, because further cells in it would change how llama.cpp rounds."""
    forget(worker)
    return answer(worker, prompt, **params)


PROMPTS = (STORY, CHAT, CODE)


@pytest.fixture(scope="module")
def llama_answers(llama: WorkerProcess) -> list[Answer]:
    """Return the answers of the loader llama.cpp to PROMPTS."""
    return [answer_with_empty_cache(llama, prompt, max_new_tokens=40, top_logprobs=3) for prompt in PROMPTS]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("fixture", ["plain", "hf"])
def test_greedy_answers_and_log_probabilities_are_those_of_the_llamacpp_loader(
    request: pytest.FixtureRequest, llama_answers: list[Answer], fixture: str
) -> None:
    worker = request.getfixturevalue(fixture)
    for prompt, expected in zip(PROMPTS, llama_answers, strict=True):
        ours = answer_with_empty_cache(worker, prompt, max_new_tokens=40, top_logprobs=3)
        assert ours.text == expected.text
        assert ours.done.completion_tokens == expected.done.completion_tokens
        for token, its in zip(ours.logprobs, expected.logprobs, strict=True):
            assert token.chosen.text == its.chosen.text
            logprobs = [candidate.logprob for candidate in token.top]
            assert logprobs == pytest.approx([candidate.logprob for candidate in its.top], abs=1e-4)


def test_without_logits_all_the_logits_operation_is_refused(plain: WorkerProcess) -> None:
    with pytest.raises(Unsupported, match="logits_all"):
        ask(plain, "logits", tokens=[1, 2])


def test_logits_of_no_tokens_are_empty_and_those_of_too_many_are_refused(hf: WorkerProcess) -> None:
    assert ask(hf, "logits", tokens=[]) == []
    with pytest.raises(PromptTooLong):
        ask(hf, "logits", tokens=[5] * (N_CTX + 1))


def test_the_logits_operation_between_two_turns_changes_neither_turn(hf: WorkerProcess) -> None:
    forget(hf)
    first = answer(hf, CHAT)
    ask(hf, "logits", tokens=[START, END, 5])
    again = answer(hf, CHAT)
    assert again.text == first.text
    assert again.done.cached_tokens == again.done.prompt_tokens - 1


# -- transformers' samplers --------------------------------------------------------------------------------------------

SAMPLED: dict[str, Any] = {"temperature": 1.0, "min_p": 0.0, "seed": 3, "max_new_tokens": 12}
COUNTING = "one two three one two three one two three one two"
REPETITIVE = "red and, and, and, and, and, and"
END_AT_ONCE = {"logit_bias": {str(END): 100.0}}
DYNAMIC = {"dynamic_temperature": True, "dynatemp_low": 0.5, "dynatemp_high": 3.0}
DRY = {"dry_multiplier": 4.0, "temperature": 0}
MIROSTAT = {"mirostat_mode": 2, "mirostat_tau": 3.0}
GUIDED = {"guidance_scale": 2.5, "temperature": 0, "negative_prompt": "one two three"}
PRIORITY = "min_p\ntemperature"
SAMPLERS: dict[str, tuple[dict[str, Any], Any]] = {
    "ban_eos_token": (END_AT_ONCE, True),
    "custom_token_bans": ({"temperature": 0}, "28"),  # the comma
    "do_sample": ({}, False),
    "dry_allowed_length": (DRY, 20),
    "dry_base": (DRY | {"dry_multiplier": 0.01}, 4.0),
    "dry_multiplier": ({"temperature": 0}, 4.0),
    "dry_sequence_breakers": (DRY, '",", " and"'),
    "dynamic_temperature": ({"dynatemp_low": 3.0, "dynatemp_high": 4.0}, True),
    "dynatemp_exponent": (DYNAMIC, 4.0),
    "dynatemp_high": (DYNAMIC, 0.6),
    "dynatemp_low": (DYNAMIC, 2.9),
    "encoder_repetition_penalty": ({"temperature": 0}, 0.8),
    "epsilon_cutoff": ({"temperature": 2.0}, 9.0),
    "eta_cutoff": ({"temperature": 2.0}, 20.0),
    "frequency_penalty": ({"temperature": 0}, 2.0),
    "grammar_string": ({}, 'root ::= " yes" | " no"'),
    "guidance_scale": ({"temperature": 0, "negative_prompt": "one two three"}, 2.5),
    "logit_bias": ({"temperature": 0}, {"500": 100.0}),
    "min_length": (END_AT_ONCE, 5),
    "min_p": ({"temperature": 2.0}, 0.5),
    "mirostat_eta": (MIROSTAT, 1.0),
    "mirostat_mode": ({"mirostat_tau": 0.5}, 2),
    "mirostat_tau": (MIROSTAT, 9.0),
    "negative_prompt": (GUIDED, "A story about the sea and its fish:"),
    "no_repeat_ngram_size": ({"temperature": 0}, 2),
    "presence_penalty": ({"temperature": 0}, 2.0),
    "repetition_penalty": ({"temperature": 0}, 1.8),
    "repetition_penalty_range": ({"temperature": 0, "repetition_penalty": 1.8}, 1),
    "sampler_priority": ({"temperature": 4.0, "min_p": 0.1}, PRIORITY),
    "seed": ({}, 4),
    "skip_special_tokens": ({"logit_bias": {str(START): 100.0}}, False),
    "smoothing_curve": ({"smoothing_factor": 0.1}, 6.0),
    "smoothing_factor": ({}, 5.0),
    "temperature": ({}, 3.0),
    "temperature_last": ({"temperature": 4.0, "min_p": 0.1}, True),
    "tfs": ({"temperature": 2.0}, 0.3),
    "top_a": ({"temperature": 2.0}, 0.5),
    "top_k": ({"temperature": 2.0}, 2),
    "top_n_sigma": ({"temperature": 2.0}, 0.5),
    "top_p": ({"temperature": 2.0}, 0.2),
    "typical_p": ({"temperature": 2.0}, 0.2),
    "xtc_probability": ({"xtc_threshold": 0.01}, 1.0),
    "xtc_threshold": ({"xtc_probability": 1.0}, 0.001),
}
"""Other parameters and a value that changes the answer, by the parameter's name."""
REPETITION = {
    *("custom_token_bans", "dry_allowed_length", "dry_base", "dry_multiplier", "dry_sequence_breakers"),
    *("encoder_repetition_penalty", "frequency_penalty", "no_repeat_ngram_size", "presence_penalty"),
    *("repetition_penalty", "repetition_penalty_range"),
}
"""Parameters that need an answer that repeats its prompt, as the answer of the first layers to REPETITIVE does."""


def test_the_tables_cover_every_sampler() -> None:
    silent = {"add_bos_token", "prompt_lookup_num_tokens"}  # this model uses no BOS; prompt lookup changes no answer
    assert LLAMACPP_HF.samplers == set(SAMPLERS) | silent


@pytest.mark.usefixtures("backend")
def test_every_sampler_parameter_changes_the_answer(request: pytest.FixtureRequest, subtests: pytest.Subtests) -> None:
    baselines: dict[str, str] = {}
    for worker, prompt, names in (("hf", REPETITIVE, REPETITION), ("tiny_hf", COUNTING, SAMPLERS.keys() - REPETITION)):
        model = request.getfixturevalue(worker)
        for name in sorted(names):
            context, value = SAMPLERS[name]
            params = SAMPLED | context
            with subtests.test(parameter=name):
                key = f"{worker} {params}"
                if key not in baselines:
                    baselines[key] = answer(model, prompt, **params).text
                assert answer(model, prompt, **params | {name: value}).text != baselines[key]


def test_prompt_lookup_does_not_change_the_answer(hf: WorkerProcess) -> None:
    forget(hf)
    usual = answer(hf, REPETITIVE, max_new_tokens=24, top_logprobs=1)
    forget(hf)
    with_lookup = answer(hf, REPETITIVE, max_new_tokens=24, top_logprobs=1, prompt_lookup_num_tokens=4)
    assert with_lookup.text == usual.text
    assert answer(hf, REPETITIVE + usual.text, max_new_tokens=1).done.cached_tokens > 24


@pytest.mark.parametrize("name", ["yes or no", "chinese"])
def test_answers_follow_a_grammar_with_the_tokenizer_of_llama_cpp(hf: WorkerProcess, name: str) -> None:
    grammar, shape = SHAPES[name]
    for seed in range(3):
        reply = answer(hf, "It is said:", **SAMPLED | {"grammar_string": grammar, "seed": seed, "max_new_tokens": 200})
        assert re.fullmatch(shape, reply.text), reply.text
        assert reply.done.reason == "stop"


def test_guidance_by_the_prompt_itself_changes_nothing(tiny_hf: WorkerProcess) -> None:
    usual = answer(tiny_hf, FRANCE)
    for _ in range(2):  # the second time with a cached negative prompt
        assert answer(tiny_hf, FRANCE, guidance_scale=1.5, negative_prompt=FRANCE).text == usual.text


def test_without_a_second_cache_guidance_is_refused(plain: WorkerProcess) -> None:
    usual = answer(plain, FRANCE, max_new_tokens=1).text
    with pytest.raises(OptionError, match="cfg-cache"):
        answer(plain, FRANCE, guidance_scale=1.5)
    assert answer(plain, FRANCE, max_new_tokens=1).text == usual


def test_both_caches_have_the_whole_context(tiny: Path, workers: WorkerPool) -> None:
    for n_ctx, expected in ((0, CONTEXT), (256, 256)):
        with workers.lease(tiny, LLAMACPP_HF, n_ctx=n_ctx, cfg_cache=True, **THREADS) as pooled:
            assert pooled.info.context_length == expected
            long = "tell" + " tell" * (expected - 6)
            reply = answer(pooled.worker, long, guidance_scale=1.5, negative_prompt=long, max_new_tokens=2)
            assert reply.done.completion_tokens == 2


# -- turns, stops and several requests ---------------------------------------------------------------------------------


def test_the_second_turn_reuses_the_first(plain: WorkerProcess, llama: WorkerProcess) -> None:
    first, theirs = (
        answer_with_empty_cache(worker, CHAT, max_new_tokens=30, ban_eos_token=True) for worker in (plain, llama)
    )
    assert first.text == theirs.text
    second = CHAT + first.text + "<|im_end|>\n<|im_start|>user\nAnd the sun?<|im_end|>\n<|im_start|>assistant\n"
    reused, expected = (answer(worker, second) for worker in (plain, llama))
    assert reused.done.cached_tokens >= first.done.prompt_tokens + 28
    assert reused.done.cached_tokens == expected.done.cached_tokens
    assert reused.text == expected.text


def test_another_conversation_in_between_does_not_evict_the_first(plain: WorkerProcess) -> None:
    forget(plain)
    long = " ".join(str(number) for number in range(100))
    answer(plain, long, max_new_tokens=2)
    answer(plain, CHAT * 2, max_new_tokens=2)
    assert answer(plain, long + " 100", max_new_tokens=2).done.cached_tokens > 200


def test_streaming_llm_reuses_tokens_after_a_gap(tiny: Path, workers: WorkerPool) -> None:
    options = {"n_ctx": 512, "streaming_llm": True, "attention_sink_size": 8}
    with workers.lease(tiny, LLAMACPP_HF, **options, **THREADS) as pooled:
        assert pooled.info.context_length == 512 - 8
        messages = [" ".join(f"{word}{number}" for number in range(20)) for word in ("red", "green", "blue")]
        answer(pooled.worker, "\n".join(messages), max_new_tokens=2)
        shifted = answer(pooled.worker, "\n".join(messages[1:]), max_new_tokens=0, ban_eos_token=True)
        assert shifted.done.cached_tokens > 80
        assert shifted.done.reason == "length"
        assert shifted.done.prompt_tokens + shifted.done.completion_tokens == 512 - 8 + 1


def test_a_long_prefill_is_cancelled_at_once(plain: WorkerProcess) -> None:
    forget(plain)
    expected = answer(plain, STORY).text
    long = plain.events("generate", prompt="tell" + " tell" * 2000, params=parameters())
    assert isinstance(next(long), Progress)
    long.close()  # type: ignore[attr-defined]
    began = time.monotonic()
    assert answer(plain, STORY).text == expected
    assert time.monotonic() - began < 10


def test_the_prefill_of_a_long_negative_prompt_is_cancelled_at_once(hf: WorkerProcess) -> None:
    forget(hf)
    params: dict[str, Any] = {"guidance_scale": 1.5, "negative_prompt": "tell" + " tell" * 2000}
    call = Crowd(hf).ask(STORY, **params)
    time.sleep(0.3)
    began = time.monotonic()
    hf.cancel(call)
    assert answer(hf, STORY, max_new_tokens=1).done.completion_tokens == 1
    assert time.monotonic() - began < 1, "the prefill of 2,000 tokens takes three seconds"


def test_a_negative_prompt_that_does_not_fit_is_refused(hf: WorkerProcess) -> None:
    with pytest.raises(PromptTooLong):
        answer(hf, FRANCE, guidance_scale=1.5, negative_prompt="tell" + " tell" * 2999)


def test_a_waiting_request_is_told_its_position_and_is_answered_later(plain: WorkerProcess) -> None:
    crowd = Crowd(plain)
    calls = [crowd.ask(f"{number} {STORY}", max_new_tokens=12) for number in range(3)]
    events_by_call = [crowd.wait(call) for call in calls]
    positions = [[event.position for event in events if isinstance(event, Waiting)] for events in events_by_call]
    assert [queued[:1] for queued in positions[1:]] == [[1], [2]]


# -- the choice of a tokenizer -----------------------------------------------------------------------------------------


def test_the_tokenizer_of_the_gguf_file_is_that_of_llama_cpp(plain: WorkerProcess, llama: WorkerProcess) -> None:
    for text in TEXTS:
        tokens = ask(plain, "encode", text=text)
        assert tokens == ask(llama, "encode", text=text)
        assert ask(plain, "count", text=text) == len(tokens)
        assert ask(plain, "decode", tokens=tokens) == text


@pytest.mark.parametrize("token", [-1, 49152, 10**9])
def test_the_logits_operation_refuses_a_token_id_outside_the_vocabulary(hf: WorkerProcess, token: int) -> None:
    with pytest.raises(OptionError):
        ask(hf, "logits", tokens=[1, token])


LoadHF = Callable[[Path], Pooled]


def link_model(models: Path, name: str, tiny: Path) -> Path:
    """Link the tiny model as `name` into a folder of models."""
    gguf = models / name
    gguf.parent.mkdir(parents=True, exist_ok=True)
    gguf.symlink_to(tiny)
    return gguf


@pytest.fixture
def load_hf(workers: WorkerPool) -> Iterator[LoadHF]:
    """Return a function that loads a model."""
    with contextlib.ExitStack() as leases:
        yield lambda path: leases.enter_context(workers.lease(path, LLAMACPP_HF, n_ctx=256, **THREADS))


def put_tokenizer(folder: Path, source: Path, bos: str) -> None:
    """Write the tokenizer of `source` with another BOS token, by which tests recognize it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "tokenizer.json", folder)
    config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": bos}), encoding="utf-8")


@pytest.mark.parametrize("name", ["model.gguf", "own/model.gguf"])
def test_a_shared_tokenizer_that_matches_is_used(
    load_hf: LoadHF, tiny: Path, tiny_llama: WorkerProcess, smollm2_folder: Path, tmp_path: Path, name: str
) -> None:
    put_tokenizer(tmp_path / "oobabooga_llama-tokenizer", smollm2_folder, "<|endoftext|>")
    loaded = load_hf(link_model(tmp_path, name, tiny))
    assert (loaded.info.special_tokens["bos_token"], loaded.info.notes) == ("<|endoftext|>", ())
    assert loaded.info.chat_template == "", "the template is that of the model, not of the shared tokenizer"
    assert answer(loaded.worker, FRANCE).text == answer(tiny_llama, FRANCE).text


def test_tokenizer_files_beside_the_model_take_precedence_over_shared_ones(
    load_hf: LoadHF, tiny: Path, tiny_llama: WorkerProcess, smollm2_folder: Path, tmp_path: Path
) -> None:
    put_tokenizer(tmp_path / "llama-tokenizer", smollm2_folder, "<|endoftext|>")
    put_tokenizer(tmp_path / "own", smollm2_folder, "<repo_name>")
    loaded = load_hf(link_model(tmp_path, "own/model.gguf", tiny))
    assert loaded.info.special_tokens["bos_token"] == "<repo_name>"
    assert loaded.info.chat_template
    assert [ask(loaded.worker, "encode", text=text) for text in TEXTS] == [
        ask(tiny_llama, "encode", text=text) for text in TEXTS
    ]
    assert answer(loaded.worker, CHAT).text == answer(tiny_llama, CHAT).text
    assert answer(loaded.worker, "Is it?", grammar_string='root ::= " yes" | " no"').text in (" yes", " no")


def spoil_tokenizer(folder: Path, damage: str) -> None:
    """Give the tokenizer in `folder` another vocabulary, or damage it."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    if damage == "other ids":
        tokenizer["model"]["vocab"] = {token: 49151 - number for token, number in tokenizer["model"]["vocab"].items()}
        tokenizer["added_tokens"] = []
    if damage == "larger":
        tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 49152, "content": "<|more|>"})
    file.write_text("{" if damage == "broken" else json.dumps(tokenizer), encoding="utf-8")
    if damage == "unknown format":
        file.rename(folder / "tokenizer.model")


@pytest.mark.parametrize("damage", ["other ids", "larger", "broken", "unknown format"])
def test_a_tokenizer_that_does_not_match_is_not_used_and_has_a_note(
    load_hf: LoadHF, tiny: Path, tiny_llama: WorkerProcess, smollm2_folder: Path, tmp_path: Path, damage: str
) -> None:
    put_tokenizer(tmp_path / "llama-tokenizer", smollm2_folder, "<|endoftext|>")
    spoil_tokenizer(tmp_path / "llama-tokenizer", damage)
    loaded = load_hf(link_model(tmp_path, "model.gguf", tiny))
    assert loaded.info.special_tokens["bos_token"] == "<|im_start|>"
    (note,) = loaded.info.notes
    assert "llama-tokenizer" in note.text["en"]
    assert "llama-tokenizer" in note.text["zh"]
    assert answer(loaded.worker, FRANCE).text == answer(tiny_llama, FRANCE).text
