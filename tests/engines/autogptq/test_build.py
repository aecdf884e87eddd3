"""GPTQ folders with auto-gptq, in a worker with the overlay: answers are those of the dequantized weights, and a failed
load reports its cause."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.lora_errors import LoraRefused
from modules.core.worker_errors import LoadFailed
from modules.loaders.availability import unavailable
from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import load
from tests.engines.hf.test_lora import ALONE, BEGINNINGS, WEIGHTED, apply_loras, fingerprint, learned
from tests.support import autogptq_probe, gptq_tiny
from tests.support.answers import Answer, answer, ask, assert_next_tokens_of_a_generation, forget, together
from tests.support.hf_logits import logits_of
from tests.support.hf_reference import TOP, transformers_answers
from tests.support.log_likelihoods import evaluate, expected_logprobs
from tests.support.peft_together import peft_answers
from tests.support.quantized_folders import plain, quantized_folder
from tests.support.worker_pool import worker_with

AUTOGPTQ = LOADERS["AutoGPTQ"]
REASON = unavailable(AUTOGPTQ)
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=f"AutoGPTQ is not installed: {AUTOGPTQ.install}"),
]

FRANCE, TALE = "The capital of France is", "Once upon a time, in a small village"
PROMPTS = [FRANCE, TALE, "1, 2, 3, 4, 5,"]
TOKENS = 4
TOLERANCE = 0.05
"""Error of the log probability of a token of more than 5 % in float16, after the first layers."""
KINDS: dict[str, dict[str, Any]] = {
    "gptq": {},
    "gptq-act-order": {},
    "gptq-8bit": {},
    "gptq-bare": {"wbits": 4, "groupsize": 64},
}


def start_worker() -> WorkerProcess:
    assert AUTOGPTQ.overlay is not None
    return worker_with(AUTOGPTQ.overlay.folder)()


@pytest.fixture(scope="module")
def process() -> Iterator[WorkerProcess]:
    """A worker that loads one model after the other, so that the package is imported once."""
    worker = start_worker()
    yield worker
    worker.close()


@pytest.fixture
def gptq(process: WorkerProcess, shallow_folder: Path) -> WorkerProcess:
    """A worker with the first layers of the demo model."""
    load(process, quantized_folder(shallow_folder, "gptq"), AUTOGPTQ)
    return process


@pytest.fixture
def complete(process: WorkerProcess, smollm2_folder: Path) -> WorkerProcess:
    """A worker with the complete demo model."""
    load(process, quantized_folder(smollm2_folder, "gptq"), AUTOGPTQ)
    return process


def top_logprobs(reply: Answer) -> list[list[float]]:
    return [[candidate.logprob for candidate in token.top] for token in reply.logprobs]


def likely_tokens_agree(actual: list[float], expected: list[float]) -> bool:
    """Return whether the tokens of more than 5 % have the same log probabilities."""
    count = sum(logprob > math.log(0.05) for logprob in expected)
    assert count
    return actual[:count] == pytest.approx(expected[:count], abs=TOLERANCE)


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_dequantized_weights(process: WorkerProcess, shallow_folder: Path, kind: str) -> None:
    """Float16 is compared with float32 until two tokens are almost equally likely."""
    folder = quantized_folder(shallow_folder, kind)
    prompts = PROMPTS if kind == "gptq" else PROMPTS[:1]
    load(process, folder, AUTOGPTQ, **KINDS[kind])
    expected = transformers_answers(plain(folder), prompts, TOKENS, dtype="float32")
    for prompt, theirs in zip(prompts, expected, strict=True):
        forget(process)
        ours = answer(process, prompt, max_new_tokens=TOKENS, top_logprobs=TOP)
        for actual, logprobs in zip(top_logprobs(ours), theirs["logprobs"], strict=True):
            assert likely_tokens_agree(actual, logprobs), (prompt, ours.text, theirs["text"])
            if logprobs[0] - logprobs[1] < TOLERANCE:
                break


def test_log_likelihoods_are_those_of_the_dequantized_weights(gptq: WorkerProcess, shallow_folder: Path) -> None:
    tokens = ask(gptq, "encode", text=TALE * 12)
    reference = logits_of(tokens, {"plain": plain(quantized_folder(shallow_folder, "gptq"))}, {})["plain"]
    errors = np.array(evaluate(gptq, tokens, 20).logprobs) - expected_logprobs(reference, tokens, 20)
    assert np.abs(errors).max() < 2 * TOLERANCE  # also of unlikely tokens


def test_the_candidates_for_the_next_token_are_those_of_a_generation(gptq: WorkerProcess) -> None:
    assert_next_tokens_of_a_generation(gptq, FRANCE)


@pytest.mark.works("cpu", "streaming", loader="AutoGPTQ")
def test_the_answer_is_right_and_the_cache_is_reused(complete: WorkerProcess) -> None:
    first = answer(complete, FRANCE, max_new_tokens=4)
    assert "Paris" in first.text and len(first.pieces) > 1
    again = answer(complete, FRANCE + first.text, max_new_tokens=1)
    assert again.done.cached_tokens >= first.done.prompt_tokens
    assert answer(complete, FRANCE, max_new_tokens=4, stops=(",",)).text == first.text.partition(",")[0] != first.text


@pytest.mark.works("concurrent", loader="AutoGPTQ")
def test_two_requests_are_answered_concurrently(gptq: WorkerProcess) -> None:
    single = [answer(gptq, prompt, max_new_tokens=TOKENS).text for prompt in PROMPTS[:2]]
    assert [reply.text for reply in together(gptq, PROMPTS[:2], max_new_tokens=TOKENS)] == single


# -- LoRAs -------------------------------------------------------------------------------------------------------------


@pytest.mark.lora("one", "several", "weights", "hot", loader="AutoGPTQ")
def test_loras_have_the_effect_they_have_on_the_dequantized_weights(
    gptq: WorkerProcess, shallow_folder: Path, shallow_loras: Path
) -> None:
    """The reference is PEFT. After the sets are removed, the log probabilities are those of before."""
    reference = plain(quantized_folder(shallow_folder, "gptq"))
    sets = [ALONE[0], WEIGHTED]
    expected = peft_answers(reference, shallow_loras, sets, BEGINNINGS, 1, {"dtype": "float32"})
    before = fingerprint(gptq)
    for adapters, answers in zip(sets, expected, strict=True):
        assert all(effect > 1 for effect in apply_loras(gptq, shallow_loras, adapters))
        for beginning, theirs in zip(BEGINNINGS, answers, strict=True):
            ours = top_logprobs(answer(gptq, beginning, max_new_tokens=1, top_logprobs=TOP))
            assert likely_tokens_agree(ours[0], theirs["logprobs"][0]), (adapters, beginning)
    apply_loras(gptq, shallow_loras)
    assert fingerprint(gptq) == before


def test_loras_make_the_model_say_their_lessons(complete: WorkerProcess, loras_folder: Path) -> None:
    apply_loras(complete, loras_folder, WEIGHTED)
    assert learned(complete) == {"banana", "green"}


# -- tiny models -------------------------------------------------------------------------------------------------------


def test_fused_attention_has_the_same_logprobs(process: WorkerProcess, smollm2_folder: Path, tmp_path: Path) -> None:
    for act_order in (False, True):
        arrays = gptq_tiny.tensors(act_order)
        folder = gptq_tiny.write(tmp_path / f"{act_order}", smollm2_folder, arrays, desc_act=act_order)
        results = {}
        for unfused in (True, False):
            load(process, folder, AUTOGPTQ, no_inject_fused_attention=unfused)
            first = answer(process, TALE, max_new_tokens=2, top_logprobs=TOP)
            pair = together(process, [TALE, FRANCE], max_new_tokens=2, top_logprobs=TOP)
            results[unfused] = [top_logprobs(reply) for reply in (first, *pair)]
        for fused, separate in zip(results[False], results[True], strict=True):
            assert fused[0] == pytest.approx(separate[0], abs=0.1)
    with pytest.raises(Exception, match="no_inject_fused_attention"):
        apply_loras(process, tmp_path, [("any", 1.0)])
    assert apply_loras(process, tmp_path) == []


def test_weight_files_of_all_names_and_kinds_load(process: WorkerProcess, smollm2_folder: Path, tmp_path: Path) -> None:
    arrays = gptq_tiny.tensors()
    single = gptq_tiny.write(tmp_path / "single", smollm2_folder, arrays, bits=4)
    sharded = gptq_tiny.write(tmp_path / "sharded", smollm2_folder, arrays, bits=4)
    gptq_tiny.split(sharded)
    old = gptq_tiny.write(tmp_path / "old", smollm2_folder, arrays)
    gptq_tiny.pickled(old, "llama-4bit-64g.pt")
    results = []
    for folder, options in ((single, {}), (sharded, {}), (old, {"wbits": 4, "groupsize": 64})):
        load(process, folder, AUTOGPTQ, **options)
        results.append(top_logprobs(answer(process, TALE, max_new_tokens=2, top_logprobs=TOP)))
    assert results[0] == results[1] == results[2]


def test_files_that_are_incomplete_or_contradict_the_options_are_refused(
    process: WorkerProcess, smollm2_folder: Path, tmp_path: Path
) -> None:
    """Without checks, all of these would load and generate nonsense."""
    arrays, act_order = gptq_tiny.tensors(), gptq_tiny.tensors(act_order=True)
    unstated = gptq_tiny.write(tmp_path / "unstated", smollm2_folder, arrays)
    ordered = gptq_tiny.write(tmp_path / "ordered", smollm2_folder, act_order, desc_act=False)
    incomplete = {name: array for name, array in arrays.items() if name != "model.layers.1.mlp.up_proj.qweight"}
    lacking = gptq_tiny.write(tmp_path / "lacking", smollm2_folder, incomplete, bits=4)
    with_nan = arrays | {"model.norm.weight": arrays["model.norm.weight"] * float("nan")}
    nan = gptq_tiny.write(tmp_path / "nan", smollm2_folder, with_nan, bits=4)
    version_2 = gptq_tiny.write(tmp_path / "version 2", smollm2_folder, arrays, checkpoint_format="gptq_v2")
    qwen3 = gptq_tiny.write(tmp_path / "qwen3", smollm2_folder, arrays, bits=4)
    config = (qwen3 / "config.json").read_text()
    (qwen3 / "config.json").write_text(config.replace('"model_type": "llama"', '"model_type": "qwen3"'))
    biased = gptq_tiny.write(tmp_path / "biased", smollm2_folder, arrays, bits=4)
    (biased / "config.json").write_text(config.replace('"model_type"', '"attention_bias": true, "model_type"'))
    for folder, options, message in (
        (biased, {}, "k_proj.bias"),
        (unstated, {"wbits": 8, "groupsize": 64}, "wbits and groupsize"),
        (unstated, {"wbits": 4}, "wbits and groupsize"),
        (unstated, {"wbits": 4, "groupsize": 128}, "wbits and groupsize"),
        (unstated, {"wbits": 1, "groupsize": 64}, "2, 3, 4 and 8 bits"),
        (ordered, {}, "Turn on desc_act"),
        (lacking, {}, "model.layers.1.mlp.up_proj.qweight"),
        (nan, {}, "produces NaN"),
        (version_2, {}, "gptq_v2"),
        (qwen3, {}, "qwen3"),
        (unstated, {"groupsize": 64, "cpu_memory": "1MiB"}, "turn on disk"),
    ):
        with pytest.raises(LoadFailed, match=message):
            load(process, folder, AUTOGPTQ, **options)
    load(process, ordered, AUTOGPTQ, desc_act=True)


class _MakesFolder:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def test_code_in_a_pickle_is_not_run(process: WorkerProcess, smollm2_folder: Path, tmp_path: Path) -> None:
    folder = gptq_tiny.write(tmp_path / "pickled", smollm2_folder, gptq_tiny.tensors(), bits=4)
    (folder / "model.safetensors").unlink()
    (folder / "model-4bit.pt").write_bytes(pickle.dumps({"a": _MakesFolder(tmp_path / "was run")}, protocol=2))
    with pytest.raises(LoadFailed, match="possibly a program"):
        load(process, folder, AUTOGPTQ)
    assert not (tmp_path / "was run").exists()


def test_layers_can_be_offloaded_to_disk(process: WorkerProcess, smollm2_folder: Path, tmp_path: Path) -> None:
    folder = gptq_tiny.write(tmp_path / "model", smollm2_folder, gptq_tiny.tensors(), bits=4)
    load(process, folder, AUTOGPTQ, no_inject_fused_attention=True)
    (expected,) = top_logprobs(answer(process, TALE, max_new_tokens=1, top_logprobs=TOP))
    # Embeddings and output layer have 12 MiB each, the other layers 0.2 MiB together. Accelerate reserves memory for
    # the largest one.
    info = load(process, folder, AUTOGPTQ, cpu_memory="24.1MiB", disk=True)
    assert any("on disk" in note.text["en"] for note in info.notes)
    (actual,) = top_logprobs(answer(process, TALE, max_new_tokens=1, top_logprobs=TOP))
    # An output layer on disk computes in bfloat16, whose numbers around 16 are 0.125 apart.
    assert actual == pytest.approx(expected, abs=0.15)


def test_monkey_patches_are_undone_after_a_load(smollm2_folder: Path, tmp_path: Path) -> None:
    """Also after a failed load. Once auto-gptq's own fused attention works, ours can be removed."""
    arrays = gptq_tiny.tensors()
    complete = gptq_tiny.write(tmp_path / "complete", smollm2_folder, arrays, bits=4)
    del arrays["model.norm.weight"]
    lacking = gptq_tiny.write(tmp_path / "lacking", smollm2_folder, arrays, bits=4)
    actual = autogptq_probe.run_probe(complete, lacking)
    assert actual["restored"] and actual["restored_after_error"] and "model.norm.weight" in actual["error"]
    assert "hidden_size" in actual["fused_attention_error"]


def test_the_error_for_a_damaged_overlay_suggests_to_reinstall_it(backend: None, tmp_path: Path) -> None:
    (tmp_path / "auto_gptq").mkdir()
    (tmp_path / "auto_gptq" / "__init__.py").write_text("import a_package_that_is_gone")
    worker = WorkerProcess(tmp_path)
    with pytest.raises(LoadFailed, match=r"a_package_that_is_gone\). Install the loader's packages again"):
        load(worker, tmp_path, AUTOGPTQ)
    worker.close()


def test_a_lora_of_another_model_is_refused(gptq: WorkerProcess, tmp_path: Path) -> None:
    with pytest.raises(LoraRefused):
        apply_loras(gptq, tmp_path, [("missing", 1.0)])
