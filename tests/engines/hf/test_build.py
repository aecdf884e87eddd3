"""Loading with the transformers engine: architectures, file formats, offloading to disk, incomplete folders."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from modules.core.paths import ROOT
from modules.core.worker_errors import LoadFailed, PromptTooLong
from modules.runtime.worker_process import WorkerProcess
from modules.system import cpu_memory
from tests.conftest import TRANSFORMERS, load, load_arguments
from tests.support.answers import Crowd, answer, ask, forget, together
from tests.support.hf_memory_probe import answers_short_of_memory, interrupted_second_turn, prefix_cache_bytes
from tests.support.hf_reference import transformers_answers
from tests.support.hf_tiny import KINDS, REFUSED, tiny_models
from tests.support.linked_folder import linked_folder
from tests.support.own_code import own_model
from tests.support.pickled_weights import pickle_program, pickle_weights

ENCODER_DECODERS = ("t5", "bart")
FRANCE = "The capital of France is"
PROMPTS = ["Once upon a time, in a small village", "The moon is bright. " * 8, "one"]
TOKENS = 27
"""More than the sliding windows of tests/support/hf_tiny.py, which even the shortest prompt then exceeds."""
OFFLOAD = ROOT / "cache" / "offload"


@pytest.fixture(scope="module")
def kinds(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_models(tmp_path_factory.mktemp("kinds"), tiny_folder)


@pytest.fixture
def variant(tiny_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a folder with the tiny model's files except those `without`, and with changes in config.json."""

    def make(*without: str, name: str = "variant", **config: Any) -> Path:
        return linked_folder(tiny_folder, tmp_path / name, without, **config)

    return make


# -- architectures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_answers_as_generate_of_transformers_does(
    reloadable: WorkerProcess, kinds: dict[str, Path], kind: str
) -> None:
    """Compare answers given one by one, in a batch, with the prefix cache, and after a second turn."""
    name = "AutoModelForSeq2SeqLM" if kind in ENCODER_DECODERS else "AutoModelForCausalLM"
    expected = [
        generated["text"] for generated in transformers_answers(kinds[kind], PROMPTS, TOKENS, name, dtype="float32")
    ]
    load(reloadable, kinds[kind], TRANSFORMERS)
    assert [answer(reloadable, prompt, max_new_tokens=TOKENS).text for prompt in PROMPTS] == expected
    assert [batched.text for batched in together(reloadable, PROMPTS, max_new_tokens=TOKENS)] == expected
    beginnings = [answer(reloadable, prompt, max_new_tokens=8) for prompt in PROMPTS]
    assert all(short.text and text.startswith(short.text) for short, text in zip(beginnings, expected, strict=True))
    turn = f"{PROMPTS[0]}{expected[0]} and"
    second = answer(reloadable, turn, max_new_tokens=8)
    forget(reloadable)
    assert answer(reloadable, turn, max_new_tokens=8).text == second.text


def test_a_model_that_cannot_use_the_kv_cache_is_refused_by_that_cause(
    reloadable: WorkerProcess, tiny_folder: Path, tmp_path: Path
) -> None:
    for folder in tiny_models(tmp_path, tiny_folder, tuple(REFUSED)).values():
        with pytest.raises(LoadFailed) as refused:
            load(reloadable, folder, TRANSFORMERS)
        assert "cannot use the KV cache" in refused.value.cause["en"] and "GGUF" in refused.value.cause["zh"]


def test_a_prompt_beyond_the_positions_of_an_encoder_is_refused(
    reloadable: WorkerProcess, kinds: dict[str, Path]
) -> None:
    load(reloadable, kinds["bart"], TRANSFORMERS)
    crowd = Crowd(reloadable)
    fine = crowd.ask("moon " * 60, max_new_tokens=60, ban_eos_token=True)
    with pytest.raises(PromptTooLong, match="128"):
        answer(reloadable, "moon " * 150)
    assert crowd.answer(fine).done.completion_tokens == 60


def test_an_encoder_decoder_model_is_guided_away_from_the_answer_to_the_negative_prompt(
    reloadable: WorkerProcess, kinds: dict[str, Path]
) -> None:
    load(reloadable, kinds["t5"], TRANSFORMERS)
    plain = answer(reloadable, FRANCE, max_new_tokens=8)
    for negative, is_same in ((FRANCE, True), ("The moon is bright.", False)):
        guided = answer(reloadable, FRANCE, max_new_tokens=8, guidance_scale=2.5, negative_prompt=negative)
        assert (guided.text == plain.text) is is_same


def test_a_full_context_ends_the_answer(reloadable: WorkerProcess, kinds: dict[str, Path]) -> None:
    assert load(reloadable, kinds["llama"], TRANSFORMERS).context_length == 256
    full = answer(reloadable, "moon " * 60, max_new_tokens=0, ban_eos_token=True)
    assert full.done.reason == "length"
    assert full.done.prompt_tokens + full.done.completion_tokens == 256 + 1  # the last token need not fit


def test_rope_options_extend_the_context(reloadable: WorkerProcess, kinds: dict[str, Path]) -> None:
    info = load(reloadable, kinds["llama"], TRANSFORMERS, compress_pos_emb=2.0)
    assert info.context_length == 512
    assert answer(reloadable, "moon " * 300, max_new_tokens=2).done.prompt_tokens > 256


def test_rope_options_change_the_logits(
    reloadable: WorkerProcess, tiny_folder: Path, subtests: pytest.Subtests
) -> None:
    def best() -> list[float]:
        (chances,) = answer(reloadable, FRANCE, max_new_tokens=1, top_logprobs=3).logprobs
        return [candidate.logprob for candidate in chances.top]

    load(reloadable, tiny_folder, TRANSFORMERS)
    unchanged = best()
    for options in ({"rope_freq_base": 500.0}, {"alpha_value": 8.0}, {"compress_pos_emb": 16.0}):
        with subtests.test(**options):
            assert not load(reloadable, tiny_folder, TRANSFORMERS, **options).notes
            assert best() != pytest.approx(unchanged, abs=0.001)


# -- file formats ------------------------------------------------------------------------------------------------------


def test_pickled_weights_answer_like_safetensors(
    reloadable: WorkerProcess, tiny_folder: Path, variant: Callable[..., Path]
) -> None:
    folder = variant("model.safetensors")
    pickle_weights(tiny_folder / "model.safetensors", folder / "pytorch_model.bin")
    answers = []
    for path in (folder, tiny_folder):
        load(reloadable, path, TRANSFORMERS)
        answers.append(answer(reloadable, FRANCE).text)
    assert answers[0] == answers[1] != ""


def test_code_in_a_pickle_is_not_run(reloadable: WorkerProcess, variant: Callable[..., Path], tmp_path: Path) -> None:
    folder, evidence = variant("model.safetensors"), tmp_path / "evidence"
    pickle_program(folder / "pytorch_model.bin", evidence)
    with pytest.raises(LoadFailed) as refused:
        load(reloadable, folder, TRANSFORMERS)
    assert not evidence.exists()
    assert "more than weights" in refused.value.cause["en"], refused.value.words


# -- too little memory -------------------------------------------------------------------------------------------------


def offloaded() -> list[str]:
    return sorted(folder.name for folder in OFFLOAD.iterdir()) if OFFLOAD.is_dir() else []


def is_removed_soon(pid: int) -> bool:
    until = time.monotonic() + 10
    while str(pid) in offloaded() and time.monotonic() < until:
        time.sleep(0.05)
    return str(pid) not in offloaded()


def test_weights_beyond_cpu_memory_are_offloaded_to_disk_until_the_worker_ends(smollm2_folder: Path) -> None:
    with closing(WorkerProcess()) as worker:
        info = load(worker, smollm2_folder, TRANSFORMERS, cpu_memory="300MiB", disk=True)
        assert {note.option for note in info.notes} == {"cpu_memory"}, "the note warns that it is slow"
        assert info.memory == pytest.approx(cpu_memory.resident_memory(worker.pid), rel=0.1)
        assert answer(worker, FRANCE, max_new_tokens=2).text == " Paris."
        assert str(worker.pid) in offloaded()
    assert is_removed_soon(worker.pid)


def test_a_killed_worker_leaves_no_offloaded_weights(tiny_folder: Path) -> None:
    with closing(WorkerProcess()) as worker:
        load(worker, tiny_folder, TRANSFORMERS, cpu_memory="1MiB", disk=True)
        assert answer(worker, FRANCE, max_new_tokens=2).done.completion_tokens == 2
        assert str(worker.pid) in offloaded()
        os.kill(worker.pid, signal.SIGKILL)
    assert is_removed_soon(worker.pid)


def test_all_weights_can_be_offloaded_to_disk(reloadable: WorkerProcess, tiny_folder: Path) -> None:
    load(reloadable, tiny_folder, TRANSFORMERS)
    expected = answer(reloadable, FRANCE, max_new_tokens=8).text
    info = load(reloadable, tiny_folder, TRANSFORMERS, cpu_memory="1MiB", disk=True)
    (note,) = info.notes
    parts = re.search(r"(\d+) of the model's (\d+) parts stay on disk", note.text["en"])
    assert parts and parts[1] == parts[2]
    assert answer(reloadable, FRANCE, max_new_tokens=8).text == expected


# -- incomplete folders ------------------------------------------------------------------------------------------------

INCOMPLETE: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "tokenizer": (["tokenizer.json", "tokenizer_config.json"], {}, "tokenizer is missing"),
    "weights": (["model.safetensors"], {}, "no weight files"),
    "config": (["config.json"], {}, "config.json is missing"),
    "architecture": ([], {"model_type": "nonesuch"}, "nonesuch"),
    "layer": ([], {"num_hidden_layers": 5}, "model.layers.4"),
    "shape": ([], {"vocab_size": 100}, "config.json does not match its weights"),
    "images": ([], {"model_type": "vit"}, "not a text generation model"),
    "gptq": ([], {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "--install Transformers"),
    "awq": ([], {"quantization_config": {"quant_method": "awq", "bits": 4}}, "--install Transformers"),
    "code": ([], {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "trust-remote-code"),
}


def test_the_error_names_what_is_missing(
    reloadable: WorkerProcess, variant: Callable[..., Path], subtests: pytest.Subtests
) -> None:
    for name, (without, config, cause) in INCOMPLETE.items():
        with subtests.test(name):
            with pytest.raises(LoadFailed) as refused:
                load(reloadable, variant(*without, name=name, **config), TRANSFORMERS)
            assert cause in refused.value.cause["en"], refused.value.words
            assert refused.value.cause["zh"]


def test_truncated_weights_are_reported_as_damaged(
    reloadable: WorkerProcess, variant: Callable[..., Path], tiny_folder: Path
) -> None:
    folder = variant("model.safetensors")
    content = (tiny_folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(LoadFailed) as refused:
        load(reloadable, folder, TRANSFORMERS)
    assert "damaged" in refused.value.cause["en"], refused.value.words


def test_a_tokenizer_file_that_was_not_downloaded_completely_is_reported(
    reloadable: WorkerProcess, variant: Callable[..., Path], subtests: pytest.Subtests
) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for name, content in {"cut": '{"version": "1.0", ', "pointer": pointer, "part": '{"added_tokens": []}'}.items():
        folder = variant("tokenizer.json", name=name)
        (folder / "tokenizer.json").write_text(content)
        with subtests.test(name):
            with pytest.raises(LoadFailed) as refused:
                load(reloadable, folder, TRANSFORMERS)
            assert "tokenizer.json" in refused.value.cause["zh"], refused.value.words


def test_remote_code_runs_with_trust_remote_code(reloadable: WorkerProcess, tiny_folder: Path, tmp_path: Path) -> None:
    load(reloadable, tiny_folder, TRANSFORMERS)
    expected = answer(reloadable, FRANCE).text
    load(reloadable, own_model(tmp_path / "own", tiny_folder), TRANSFORMERS, trust_remote_code=True)
    assert answer(reloadable, FRANCE).text == expected


def test_explain_states_the_calls_and_notes_of_loading(reloadable: WorkerProcess, tiny_folder: Path) -> None:
    options = {"gpu_memory": "10", "no_use_fast": True, "load_in_8bit": True, "bf16": True}
    explained = ask(reloadable, "explain", **load_arguments(tiny_folder, TRANSFORMERS, **options))
    assert explained["calls"]["AutoModelForCausalLM.from_pretrained"]["quantization_config"]["load_in_8bit"] is True
    info = load(reloadable, tiny_folder, TRANSFORMERS, **options)
    assert [note["option"] for note in explained["notes"]] == [note.option for note in info.notes]
    assert {"no_use_fast", "bf16"} <= {note.option for note in info.notes}


# -- a GPU's memory ----------------------------------------------------------------------------------------------------


def test_the_prefix_cache_is_freed_for_an_answer_that_needs_its_memory(kinds: dict[str, Path]) -> None:
    """A forward pass on the CPU fails with an out-of-memory error; the answer is the same as without the failure."""
    answers = answers_short_of_memory(kinds["llama"])
    for name in ("nothing to free", "too much by itself"):
        assert "out of memory" in answers.pop(name)[0]
    assert len(answers) == 4
    for case, (expected, texts, prefixes) in answers.items():
        assert texts == expected, case
        assert prefixes == len(texts), f"{case}: the earlier prefixes were freed"


def test_a_prompt_that_begins_again_after_an_interruption_counts_no_cached_tokens(kinds: dict[str, Path]) -> None:
    progress, cached = interrupted_second_turn(kinds["window"])
    assert cached == 0, "a sliding window that has moved on cannot go back to before the interrupted chunk"
    assert len(progress) > 3
    assert all(0 < done <= 1 for done in progress)


def test_the_prefix_cache_is_limited_by_the_free_memory_of_the_gpu(backend: None) -> None:
    assert prefix_cache_bytes(gpu_free=2 << 30, gpu_total=12 << 30, main_total=64 << 30) == (1 << 29, 2 << 30)
