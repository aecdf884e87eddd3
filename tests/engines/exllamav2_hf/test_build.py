"""ExLlamaV2 with the samplers of transformers: the real Python code with a stand-in for the compiled extension."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from modules.core.errors import OptionError
from modules.core.events import Progress, Text
from modules.core.lora_errors import LoraRefused
from modules.core.worker_errors import UNNAMED, LoadFailed
from modules.engines.failure_causes import cause
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import TRANSFORMERS, load
from tests.engines.hf.test_lora import apply_loras
from tests.support.answers import Answer, Crowd, answer, ask, assert_next_tokens_of_a_generation, forget
from tests.support.exl2_folder import exl2_folder
from tests.support.exl2_folder import plain as exl2_plain
from tests.support.exllamav2_forked import output_of
from tests.support.exllamav2_worker import EXLLAMAV2, EXLLAMAV2_HF, exllamav2_worker, overlay
from tests.support.quantized_folders import plain, quantized_folder
from tests.support.trained_loras import LESSONS
from tests.support.worker_pool import WorkerPool

FRANCE = "The capital of France is"
LOADER = "ExLlamav2_HF"
TOLERANCE = 0.05  # of log probabilities in float16


@pytest.fixture(scope="module")
def gptq(smollm2_folder: Path) -> Path:
    return quantized_folder(smollm2_folder, "gptq")


@pytest.fixture(scope="module")
def shallow_gptq(shallow_folder: Path) -> Path:
    return quantized_folder(shallow_folder, "gptq")


@pytest.fixture
def hf(workers: WorkerPool, gptq: Path) -> Iterator[WorkerProcess]:
    """A worker with a second cache, without flash-attention. Tests that load other models come later in this file."""
    with workers.lease(gptq, EXLLAMAV2_HF, exllamav2_worker, max_seq_len=1024, cfg_cache=True) as pooled:
        yield pooled.worker


@pytest.fixture
def shallow(workers: WorkerPool, shallow_gptq: Path) -> Iterator[WorkerProcess]:
    """A worker like `hf` with the model's first layers."""
    with workers.lease(shallow_gptq, EXLLAMAV2_HF, exllamav2_worker, max_seq_len=1024, cfg_cache=True) as pooled:
        yield pooled.worker


@pytest.fixture
def reference(reloadable: WorkerProcess, shallow_gptq: Path) -> WorkerProcess:
    """A worker with the weights of `shallow` under Transformers in float32."""
    load(reloadable, plain(shallow_gptq), TRANSFORMERS)
    return reloadable


@pytest.mark.works("stand-in", "streaming", loader=LOADER)
def test_an_answer_comes_token_by_token(hf: WorkerProcess) -> None:
    reply = answer(hf, FRANCE, max_new_tokens=6)
    assert reply.text.startswith(" Paris")
    assert sum(isinstance(event, Text) for event in reply.events) == 6 == reply.done.completion_tokens


def test_the_candidates_for_the_next_token_are_those_of_a_generation(hf: WorkerProcess) -> None:
    assert_next_tokens_of_a_generation(hf, FRANCE)


def test_a_stop_string_ends_the_answer(hf: WorkerProcess) -> None:
    reply = answer(hf, FRANCE, stops=("aris",))
    assert (reply.text, reply.done.reason) == (" P", "stop")


def test_the_next_turn_reuses_the_evaluated_tokens(hf: WorkerProcess) -> None:
    forget(hf)
    first = answer(hf, FRANCE, max_new_tokens=6)
    assert first.done.cached_tokens == 0
    unrelated = answer(hf, "Once upon a time", max_new_tokens=2)  # uses the second cache
    assert unrelated.done.cached_tokens == 0
    prompt = FRANCE + first.text + " It is"
    second = answer(hf, prompt, max_new_tokens=4)
    assert second.done.cached_tokens >= first.done.prompt_tokens + 4
    forget(hf)
    assert answer(hf, prompt, max_new_tokens=4).text == second.text


@pytest.mark.works("stand-in", "cfg", loader=LOADER)
def test_guidance_leads_away_from_the_negative_prompt(hf: WorkerProcess) -> None:
    """With the prompt itself as the negative prompt, CFG changes nothing."""
    usual = answer(hf, FRANCE, max_new_tokens=5)
    same = answer(hf, FRANCE, max_new_tokens=5, guidance_scale=2, negative_prompt=FRANCE)
    assert same.text == usual.text
    italy = answer(
        hf, "The capital of", max_new_tokens=5, guidance_scale=-0.5, negative_prompt="The capital of Italy is"
    )
    assert italy.text.startswith(" Rome")


@pytest.mark.works("stand-in", "samplers", loader=LOADER)
def test_the_samplers_of_transformers_are_applied(hf: WorkerProcess) -> None:
    params = {"max_new_tokens": 6, "temperature": 2.0, "min_p": 0.0}
    texts = []
    for seed in (1, 1, 2):
        forget(hf)  # in float16 it matters how many tokens are evaluated at once
        texts.append(answer(hf, FRANCE, seed=seed, **params).text)
    assert texts[0] == texts[1] != texts[2]
    assert answer(hf, FRANCE, max_new_tokens=3, grammar_string='root ::= " London"').text == " London"


def test_a_long_prefill_is_cancelled_at_once(hf: WorkerProcess) -> None:
    crowd = Crowd(hf)
    long = crowd.ask("word " * 900, max_new_tokens=4)
    short = crowd.ask(FRANCE, max_new_tokens=2)
    hf.cancel(long)
    assert crowd.answer(short).text.startswith(" Paris")
    assert not [event for event in crowd.heard[long] if isinstance(event, Text | Progress)]


def test_answers_are_those_of_the_same_weights_in_full_precision(
    shallow: WorkerProcess, reference: WorkerProcess
) -> None:
    for prompt in (FRANCE, "1, 2, 3, 4,"):
        assert same_answer(shallow, reference, prompt)


def same_answer(worker: WorkerProcess, reference: WorkerProcess, prompt: str, tokens: int = 4) -> bool:
    params = {"max_new_tokens": tokens, "top_logprobs": 3}
    expected, actual = (answer(process, prompt, **params) for process in (reference, worker))
    same_logprobs = top_logprobs(actual) == pytest.approx(top_logprobs(expected), abs=TOLERANCE)
    return actual.text == expected.text and same_logprobs


def top_logprobs(reply: Answer) -> list[float]:
    return [candidate.logprob for token in reply.logprobs for candidate in token.top]


LORAS: dict[str, list[tuple[str, float]]] = {
    "one": [("banana", 1.0)],
    "several": [("banana", 1.0), ("green", 1.0)],
    "weights": [("green", 0.5), ("banana", 2.0)],
}


@pytest.mark.lora("one", "several", "weights", "hot", loader=LOADER)
def test_loras_have_the_effect_they_have_under_peft_and_can_be_removed(
    shallow: WorkerProcess, reference: WorkerProcess, shallow_loras: Path
) -> None:
    before = fingerprint(shallow)
    for adapters in LORAS.values():
        effects = [apply_loras(worker, shallow_loras, adapters) for worker in (shallow, reference)]
        assert effects[0] == pytest.approx(effects[1], rel=0.02)
        for lesson in LESSONS.values():
            forget(shallow)
            assert same_answer(shallow, reference, lesson.beginning, tokens=1), adapters
    with pytest.raises(LoraRefused):
        apply_loras(shallow, shallow_loras, [("banana", 1.0), ("missing", 1.0)])
    assert apply_loras(shallow, shallow_loras) == [] and fingerprint(shallow) == before


def test_a_lora_that_exllamav2_would_apply_incompletely_is_refused(
    shallow: WorkerProcess, shallow_loras: Path, tmp_path: Path
) -> None:
    before = fingerprint(shallow)
    shutil.copytree(shallow_loras / "banana", tmp_path / "patterned")
    config = json.loads((tmp_path / "patterned" / "adapter_config.json").read_text())
    (tmp_path / "patterned" / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": {"q_proj": 1}}))
    with pytest.raises(LoraRefused, match="ExLlamaV2 does not support alpha_pattern"):
        apply_loras(shallow, tmp_path, [("patterned", 1.0)])
    assert fingerprint(shallow) == before


def fingerprint(worker: WorkerProcess) -> list[float]:
    forget(worker)
    return top_logprobs(answer(worker, "The secret word is", max_new_tokens=3, top_logprobs=5))


def test_text_is_encoded_and_decoded_by_the_tokenizer(shallow: WorkerProcess) -> None:
    tokens = ask(shallow, "encode", text=FRANCE)
    assert ask(shallow, "decode", tokens=tokens).endswith(FRANCE) and ask(shallow, "count", text=FRANCE) == len(tokens)


def test_a_lora_for_an_exl2_model_is_permuted_to_the_order_of_its_layers(
    workers: WorkerPool, reloadable: WorkerProcess, shallow_folder: Path, shallow_loras: Path
) -> None:
    """ "green" also adapts the MLPs, whose columns are packed in another order."""
    folder = exl2_folder(shallow_folder)
    with workers.lease(folder, EXLLAMAV2_HF, exllamav2_worker, max_seq_len=512) as pooled:
        effect = apply_loras(pooled.worker, shallow_loras, [("green", 1.0)])
        apply_loras(pooled.worker, shallow_loras)
    load(reloadable, exl2_plain(folder), TRANSFORMERS)
    assert effect == pytest.approx(apply_loras(reloadable, shallow_loras, [("green", 1.0)]), rel=0.05)


@pytest.mark.parametrize("enabled", [("cache_8bit", "no_sdpa"), ("cache_4bit", "autosplit")], ids=" ".join)
def test_exl2_weights_work_with_quantized_caches_and_autosplit(
    workers: WorkerPool, smollm2_folder: Path, enabled: tuple[str, ...]
) -> None:
    options = {"max_seq_len": 256, **dict.fromkeys(enabled, True)}
    with workers.lease(exl2_folder(smollm2_folder), EXLLAMAV2_HF, exllamav2_worker, **options) as pooled:
        assert pooled.info.context_length == 256
        assert answer(pooled.worker, FRANCE, max_new_tokens=2).text.startswith(" Paris")
        with pytest.raises(OptionError, match="cfg-cache"):
            answer(pooled.worker, FRANCE, guidance_scale=1.5)


def test_autosplit_allocates_the_cache_of_the_negative_prompt_layer_by_layer(
    workers: WorkerPool, smollm2_folder: Path
) -> None:
    options = {"max_seq_len": 256, "autosplit": True, "cfg_cache": True, "cache_4bit": True}
    params = {"guidance_scale": 1.5, "negative_prompt": "Once upon a time"}
    with workers.lease(exl2_folder(smollm2_folder), EXLLAMAV2_HF, exllamav2_worker, **options) as pooled:
        assert answer(pooled.worker, FRANCE, max_new_tokens=2, **params).text.startswith(" Paris")


def test_sdpa_in_the_package_still_attends_to_later_tokens(shallow_gptq: Path) -> None:
    """In 0.3.2 later tokens of a prompt change the logits of earlier ones. Once this test fails, ExLlamaV2 can use SDPA
    without our patch: see `exllamav2.patches`.
    """
    assert output_of("tests.support.exllamav2_causality", str(shallow_gptq)).split()[-2:] == ["True", "False"]


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_pytorch_without_cuda_is_named_as_the_cause_and_nothing_is_compiled(
    shallow_gptq: Path, subtests: pytest.Subtests
) -> None:
    with closing(WorkerProcess(overlay())) as process:  # without the stand-in
        for loader in (EXLLAMAV2, EXLLAMAV2_HF):
            with subtests.test(loader.name):
                with pytest.raises(LoadFailed) as failed:
                    load(process, shallow_gptq, loader)
                assert "a PyTorch that is built for CUDA" in failed.value.say("en")
                assert "支持 CUDA 的 PyTorch" in failed.value.say("zh")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.", "toolkit"),
        ("RuntimeError: Ninja is required to load C++ extensions (pip install ninja to get it)", "ninja"),
        ("RuntimeError: Error building extension 'exllamav2_ext': [1/46] nvcc fatal", "could not be compiled"),
        ("ImportError: /x/flash_attn_2_cuda.cpython-311.so: undefined symbol: _ZN3c104cuda9SetDevice", "flash-attn"),
        ("RuntimeError: Insufficient VRAM for model and cache", "Lower max_seq_len"),
        ("AssertionError: Insufficient space in device allocation", "gpu-split"),
        ("ValueError:  ## Could not find model.layers.0.mlp.gate_proj.* in model", "does not support its architecture"),
        ("FileNotFoundError: No supported tokenizer found.", "tokenizer.json"),
    ],
)
def test_errors_of_exllamav2_are_mapped_to_a_named_cause(message: str, expected: str) -> None:
    assert expected in cause(message)["en"] and cause(message)["zh"] != UNNAMED["zh"]
