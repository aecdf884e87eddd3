"""The llama.cpp engine with a real model: its answers are those of `llama_cpp.Llama`, and options take effect."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from modules.core.events import Info, Progress
from modules.core.fill_in_middle import FimTokens
from modules.core.worker_errors import LoadFailed, PromptTooLong
from modules.engines.llamacpp.arguments import Build
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import LLAMA, load, load_arguments
from tests.support.answers import Answer, answer, ask, forget, parameters
from tests.support.gguf_files import gguf
from tests.support.hf_folder import read_metadata
from tests.support.llama_library import installed_build, reference_answers
from tests.support.shallow_gguf import shallow_gguf
from tests.support.tiny_model import CONTEXT, tiny_gguf_bytes
from tests.support.worker_pool import WorkerPool

THREADS = 1  # two threads would wait for each other if other processes use the CPUs as well
N_CTX = 2048
STORY = "Once upon a time, in a small village by the sea,"
CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
    "<|im_start|>user\nWrite three sentences about the moon.<|im_end|>\n<|im_start|>assistant\n"
)
CODE = "def fibonacci(n):\n    "
FRANCE = "The capital of France is"
TOKENS = 52
"""Enough for the complete answer to CHAT."""


@pytest.fixture(scope="module")
def llama(smollm2: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    options = {"n_ctx": N_CTX, "threads": THREADS, "threads_batch": THREADS, "flash_attn": True}
    with workers.lease(smollm2, LLAMA, **options) as pooled:
        yield pooled.worker


@pytest.fixture(scope="module")
def build() -> Build:
    return installed_build()


@pytest.fixture(scope="module")
def reference(smollm2: Path, build: Build) -> dict[str, Any]:
    """Return the answers of `llama_cpp.Llama` by prompt."""
    prompts = [STORY, CHAT, CODE]
    request = {
        "path": str(smollm2),
        "prompts": prompts,
        "max_tokens": TOKENS,
        "n_ctx": N_CTX,
        "threads": THREADS,
        "flash_attn": True,
        "repacks": build.repacks,
    }
    return dict(zip(prompts, reference_answers(request), strict=True))


def test_special_tokens_of_visible_texts_are_shown(llama: WorkerProcess) -> None:
    (start,) = ask(llama, "encode", text="<|im_start|>")
    params = parameters(max_new_tokens=2, logit_bias={str(start): 100})
    for visible, text in ((["<|im_start|>user"], "<|im_start|><|im_start|>"), ([], "")):
        reply = Answer(list(llama.events("generate", prompt=STORY, params={**params, "visible": visible})))
        assert reply.text == text


def test_a_sampled_answer_is_repeated_among_other_conversations_and_after_a_restart(
    smollm2: Path, llama: WorkerProcess, worker: WorkerProcess
) -> None:
    def sampled(worker: WorkerProcess, seed: int) -> Answer:
        params = parameters(temperature=1, max_new_tokens=40, seed=seed) | {"max_cached_tokens": 0}
        return Answer(list(worker.events("generate", prompt=CHAT, params=params)))

    answer(llama, f"{STORY} {CODE}" * 5)
    first = sampled(llama, -1)
    answer(llama, f"{CODE} {STORY}" * 5)
    assert sampled(llama, first.done.seed).text == first.text
    load(worker, smollm2, n_ctx=N_CTX, threads=THREADS, threads_batch=THREADS, flash_attn=True)
    assert sampled(worker, first.done.seed).text == first.text


def test_tokens_for_filling_in_the_middle_are_those_of_the_header_or_those_with_their_names(
    smollm2: Path, tmp_path: Path, worker: WorkerProcess
) -> None:
    metadata = read_metadata(smollm2)
    ids = {"fim_pre_token_id": 7, "fim_suf_token_id": 9, "fim_mid_token_id": 8}
    header = {f"tokenizer.ggml.{key}": token for key, token in ids.items()}
    names = {10: "[PREFIX]", 11: "[SUFFIX]", 17: "<fim_prefix>", 18: "<fim_middle>", 19: "<fim_suffix>"}

    def renamed(*ids: int) -> dict[str, Any]:
        texts = enumerate(metadata["tokenizer.ggml.tokens"])
        return {"tokenizer.ggml.tokens": [names[token] if token in ids else text for token, text in texts]}

    files = {
        "without": metadata,
        "header": metadata | header,
        "named": metadata | renamed(17, 18, 19),
        "both": metadata | header | renamed(17, 18, 19),
        "suffix first": metadata | renamed(10, 11),
    }
    found = {}
    for name, changed in files.items():
        (path := tmp_path / f"{name}.gguf").write_bytes(tiny_gguf_bytes(changed))
        found[name] = load(worker, path, n_ctx=64, threads=THREADS, threads_batch=THREADS).fim
    stops = ("<|endoftext|>", "<file_sep>")
    assert found == {
        "without": None,
        "header": FimTokens(7, 9, 8),
        "named": FimTokens(17, 19, 18, False, stops),
        "both": FimTokens(7, 9, 8),
        "suffix first": FimTokens(10, 11, -1, True, stops),
    }


# -- the answers of llama_cpp.Llama -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [STORY, CHAT, CODE], ids=["story", "chat", "code"])
def test_the_greedy_answer_is_that_of_the_llama_class(
    llama: WorkerProcess, reference: dict[str, Any], prompt: str
) -> None:
    forget(llama)
    ours, theirs = answer(llama, prompt, max_new_tokens=TOKENS), reference[prompt]
    assert ours.done.cached_tokens == 0
    assert ours.text == theirs["text"]
    assert (ours.done.reason, ours.done.prompt_tokens) == (theirs["reason"], theirs["prompt_tokens"])


@pytest.mark.parametrize("prompt", [STORY, CHAT, CODE], ids=["story", "chat", "code"])
def test_the_log_probabilities_are_those_of_the_llama_class(
    llama: WorkerProcess, reference: dict[str, Any], prompt: str
) -> None:
    forget(llama)
    expected = reference[prompt]["logprobs"]
    logprobs = answer(llama, prompt, max_new_tokens=len(expected), top_logprobs=5).logprobs
    for ours, theirs in zip(logprobs, expected, strict=True):
        assert [candidate.logprob for candidate in ours.top] == pytest.approx(theirs, abs=1e-2)
        assert ours.chosen == ours.top[0], "greedy sampling takes the most likely token"


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wide",
    [{"top_k": 1000}, {"top_p": 1.0}, {"min_p": 0.0}, {"temperature": 5.0}],
    ids=lambda key: next(iter(key)),
)
def test_sampling_from_many_candidates_is_not_greedy(llama: WorkerProcess, wide: dict[str, float]) -> None:
    greedy = answer(llama, STORY, max_new_tokens=8)
    params = {"temperature": 1.5, "seed": 3, "min_p": 0.0, "max_new_tokens": 8}
    assert answer(llama, STORY, **params | wide).text != greedy.text


REPETITIVE = " I'm not sure what to do. I'm not sure what to do."


@pytest.fixture(scope="module")
def repeated_text(llama: WorkerProcess) -> str:
    """Return the answer to REPETITIVE without a penalty."""
    return answer(llama, REPETITIVE).text


@pytest.mark.parametrize("penalty", ["repetition_penalty", "frequency_penalty", "presence_penalty"])
def test_a_penalty_prevents_repetition(llama: WorkerProcess, repeated_text: str, penalty: str) -> None:
    assert repeated_text.startswith(REPETITIVE)
    assert not answer(llama, REPETITIVE, max_new_tokens=6, **{penalty: 2.0}).text.startswith(REPETITIVE[:12])


def test_a_penalty_applies_only_to_tokens_within_its_range(llama: WorkerProcess) -> None:
    """No word of the prompt follows itself, so a range of 1 has no effect; 0 means no limit."""
    texts = {
        size: answer(llama, REPETITIVE, repetition_penalty=2.0, repetition_penalty_range=size).text
        for size in (0, 1, 1024)
    }
    assert texts[1].startswith(REPETITIVE)
    assert texts[0] == texts[1024] != texts[1]


# -- a small context --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tiny: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    """A worker with the tiny model, a small context and n_batch 32."""
    options = {"n_ctx": 256, "n_batch": 32, "threads": THREADS, "threads_batch": THREADS}
    with workers.lease(tiny, LLAMA, **options) as pooled:
        assert pooled.info.context_length == 256
        yield pooled.worker


def test_a_full_context_ends_the_answer(small: WorkerProcess) -> None:
    prompt = REPETITIVE * 14
    full = answer(small, prompt, max_new_tokens=0)
    assert full.done.reason == "length"
    assert full.done.prompt_tokens + full.done.completion_tokens == 256 + 1  # the last token need not fit
    assert answer(small, prompt, max_new_tokens=3).text == "".join(full.pieces[:3])


def test_a_prompt_longer_than_a_batch_reports_progress(small: WorkerProcess) -> None:
    long = answer(small, "tell" + " tell" * 99, max_new_tokens=1)
    progress = [event.done for event in long.events if isinstance(event, Progress)]
    assert progress == pytest.approx([0.32, 0.64, 0.96])


@pytest.mark.parametrize("tokens", [255, 254])
def test_a_prompt_that_just_fits_is_answered(small: WorkerProcess, tokens: int) -> None:
    prompt = "tell" + " tell" * (tokens - 1)
    reply = answer(small, prompt, max_new_tokens=0, temperature=1.0)
    assert reply.done.prompt_tokens == tokens
    assert 1 <= reply.done.completion_tokens <= 257 - tokens


def test_a_prompt_as_long_as_the_context_is_refused(small: WorkerProcess) -> None:
    with pytest.raises(PromptTooLong):
        answer(small, "tell" + " tell" * 255)


def test_many_small_batches_give_the_answer_of_one_large_batch(
    small: WorkerProcess, tiny: Path, workers: WorkerPool
) -> None:
    prompt = "The moon is bright tonight. " * 15 + "The moon is"
    with workers.lease(tiny, LLAMA, n_ctx=256, threads=THREADS, threads_batch=THREADS) as large:
        ours, theirs = (answer(worker, prompt, max_new_tokens=6, top_logprobs=5) for worker in (small, large.worker))
    assert ours.text == theirs.text
    for actual, expected in zip(ours.logprobs, theirs.logprobs, strict=True):
        logprobs = [candidate.logprob for candidate in actual.top]
        assert logprobs == pytest.approx([candidate.logprob for candidate in expected.top], abs=0.05)


# -- every option reaches the call ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadResult:
    """A loaded model, its answer to FRANCE, and facts from /proc about its process."""

    info: Info
    text: str
    status: str
    threads: int
    maps: str

    @property
    def notes(self) -> set[str]:
        return {note.option for note in self.info.notes}


NEW_PROCESS_OPTIONS = {"no_mmap", "mlock", "numa", "threads", "threads_batch", "n_ctx"}
Load = Callable[..., LoadResult]


@pytest.fixture(scope="session")
def loaded(workers: WorkerPool) -> Load:
    """Return a function that loads a model and observes its process.

    The process is a new one if the options change its threads or its mapped files.
    """

    @cache
    def load_once(model: Path, **options: object) -> LoadResult:
        defaults: dict[str, object] = {"n_ctx": 512, "threads": 1, "threads_batch": 1}
        if not options or options.keys() & NEW_PROCESS_OPTIONS:
            with contextlib.closing(WorkerProcess()) as worker:
                return observe(worker, load(worker, model, **defaults | options))
        with workers.lease(model, LLAMA, **defaults | options) as pooled:
            return observe(pooled.worker, pooled.info)

    return load_once


def observe(worker: WorkerProcess, info: Info) -> LoadResult:
    text = answer(worker, FRANCE).text
    process = Path(f"/proc/{worker.pid}")
    status, maps = (process / "status").read_text(), (process / "maps").read_text()
    return LoadResult(info, text, status, len(os.listdir(process / "task")), maps)


SPEED_AND_MEMORY: list[dict[str, Any]] = [
    {"no_mmap": True},
    {"mlock": True},
    {"numa": True},
    {"threads": 3},
    {"threads_batch": 4},
    {"n_batch": 32},
    {"cpu": True},
    {"n_gpu_layers": 256},
    {"tensor_split": "30,70", "row_split": True},
    {"no_offload_kqv": True},
    {"tensorcores": True, "no_mul_mat_q": True},
    {"compress_pos_emb": 1.0},
]


def test_options_for_speed_and_memory_do_not_change_the_answer(
    loaded: Load, tiny: Path, subtests: pytest.Subtests
) -> None:
    expected = loaded(tiny).text
    assert len(expected) > 20
    for options in SPEED_AND_MEMORY:
        with subtests.test(**options):
            assert loaded(tiny, **options).text == expected


def test_rope_options_change_the_answer(loaded: Load, tiny: Path, subtests: pytest.Subtests) -> None:
    for options in ({"rope_freq_base": 500.0}, {"alpha_value": 8.0}, {"compress_pos_emb": 16.0}):
        with subtests.test(**options):
            assert loaded(tiny, **options).text != loaded(tiny).text


def test_the_context_is_n_ctx_or_else_the_models_own(loaded: Load, tiny: Path) -> None:
    assert loaded(tiny).info.context_length == 512
    assert loaded(tiny, n_ctx=0).info.context_length == CONTEXT


def test_a_quantized_cache_turns_flash_attention_on_with_a_note(
    loaded: Load, smollm2: Path, subtests: pytest.Subtests
) -> None:
    for option, flash_attn in itertools.product(("cache_8bit", "cache_4bit"), (True, False)):
        with subtests.test(option=option, flash_attn=flash_attn):
            quantized = loaded(shallow_gguf(smollm2), **{option: True, "flash_attn": flash_attn})
            assert len(quantized.text) > 20
            assert ("flash_attn" in quantized.notes) is not flash_attn


def test_a_quantized_cache_takes_less_memory(loaded: Load, smollm2: Path) -> None:
    full, quantized = (loaded(smollm2, n_ctx=8192, **options).info.memory for options in ({}, {"cache_8bit": True}))
    assert full - quantized > 50 << 20


def test_without_mmap_the_file_is_not_mapped(loaded: Load, tiny: Path) -> None:
    assert str(tiny) in loaded(tiny).maps
    assert str(tiny) not in loaded(tiny, no_mmap=True).maps


def test_mlock_locks_memory_as_far_as_the_system_allows(loaded: Load, tiny: Path) -> None:
    def locked(options: dict[str, Any]) -> int:
        match = re.search(r"VmLck:\s+(\d+)", loaded(tiny, **options).status)
        return int(match[1]) if match else 0

    assert locked({}) == 0
    assert locked({"mlock": True}) > 0


def test_the_thread_options_set_the_number_of_threads(loaded: Load, tiny: Path) -> None:
    assert loaded(tiny, threads=3).threads == loaded(tiny).threads + 2
    assert loaded(tiny, threads_batch=4).threads == loaded(tiny).threads + 3


def test_options_without_effect_have_notes(loaded: Load, tiny: Path, build: Build) -> None:
    ignored = {"tensorcores": True, "no_mul_mat_q": True}
    assert set(ignored) <= loaded(tiny, **ignored).notes
    if not build.gpu_offload:
        for options in ({"n_gpu_layers": 256}, {"tensor_split": "30,70", "row_split": True}, {"no_offload_kqv": True}):
            assert set(options) <= loaded(tiny, **options).notes


def test_explain_reflects_the_installed_library(llama: WorkerProcess, build: Build, smollm2: Path) -> None:
    explained = ask(llama, "explain", **load_arguments(smollm2, n_ctx=123))
    assert explained["calls"]["llama_init_from_model"]["n_ctx"] == 123
    assert explained["calls"]["llama_model_load_from_file"].get("use_extra_bufts", True) is build.repacks


# -- files that are not models ----------------------------------------------------------------------------------------


def broken_files(half: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "four bytes": b"GGUF",
        "text": b"<html>404 Not Found</html>" * 100,
        "old ggml": b"ggjt" + struct.pack("<I", 3) + bytes(1000),
        "version 1": b"GGUF" + struct.pack("<I", 1) + half[8:],
        "version 999": b"GGUF" + struct.pack("<I", 999) + half[8:],
        "only the header": half[:1000],
        "vocabulary cut": half[:1_000_000],
        "weights cut": half,
        "huge counts": b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60) + half[24:],
        "unknown architecture": gguf({"general.architecture": "nonesuch"}),
        "no weights": gguf(),
    }


def test_broken_files_are_refused_with_the_message_of_llama_cpp_and_the_next_load_works(
    worker: WorkerProcess, smollm2: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    with smollm2.open("rb") as file:
        half = file.read(20_000_000)
    for name, content in broken_files(half).items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with subtests.test(file=name):
            with pytest.raises(LoadFailed) as refused:
                load(worker, path)
            assert (refused.value.loader, refused.value.model) == ("llama.cpp", path.name)
            assert len(refused.value.words) > 20
            assert refused.value.words != "no reason given"
    for path in (tmp_path, tmp_path / "nothing.gguf"):
        with subtests.test(path=path.name), pytest.raises(LoadFailed):
            load(worker, path)
    load(worker, smollm2, n_ctx=256, threads=THREADS, threads_batch=THREADS)
    assert "Paris" in answer(worker, FRANCE).text
