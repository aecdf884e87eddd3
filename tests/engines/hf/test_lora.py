"""LoRAs with the transformers engine have the effect that they have in PEFT, and none after they are removed."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.lora_errors import LoraRefused, LoraWithoutEffect
from modules.runtime.worker_process import WorkerProcess
from modules.system import cpu_memory
from tests.conftest import TRANSFORMERS
from tests.engines.hf.test_hf import FORMS
from tests.support.answers import Answer, answer, ask, forget
from tests.support.hf_folder import write_safetensors
from tests.support.hf_lora_probe import apply_and_remove
from tests.support.hf_reference import TOP
from tests.support.hf_tiny import tiny_models
from tests.support.memory_growth import ROUNDS, growth
from tests.support.peft_reference import peft_logits
from tests.support.peft_together import peft_answers
from tests.support.quantized_folders import read_safetensors
from tests.support.trained_loras import LESSONS
from tests.support.worker_pool import WorkerPool

FRANCE = "The capital of France is"
BEGINNINGS = [*(lesson.beginning for lesson in LESSONS.values()), FRANCE]
ALONE = ((("banana", 1.0),), (("green", 1.0),))
TOGETHER = (("banana", 1.0), ("green", 1.0))
WEIGHTED = (("banana", 0.5), ("green", 2.0))
TOKENS = 3


@pytest.fixture
def hf(workers: WorkerPool, smollm2_folder: Path, loras_folder: Path) -> Iterator[WorkerProcess]:
    """A worker with the demo model in float32, for the words that the LoRAs were trained on."""
    with workers.lease(smollm2_folder, TRANSFORMERS) as pooled:
        yield pooled.worker
        apply_loras(pooled.worker, loras_folder)


@pytest.fixture
def shallow(workers: WorkerPool, shallow_folder: Path, shallow_loras: Path) -> Iterator[WorkerProcess]:
    """A worker with the first layers of the demo model in float32, for comparing numbers."""
    with workers.lease(shallow_folder, TRANSFORMERS) as pooled:
        yield pooled.worker
        apply_loras(pooled.worker, shallow_loras)


@pytest.fixture(scope="module")
def kinds(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_models(tmp_path_factory.mktemp("kinds"), smollm2_folder, ["llama", "t5"])


@pytest.fixture
def small(workers: WorkerPool, kinds: dict[str, Path]) -> Iterator[WorkerProcess]:
    """A worker with a tiny random model, for tests that need no meaningful text. It may have LoRAs of earlier tests."""
    with workers.lease(kinds["llama"], TRANSFORMERS) as pooled:
        yield pooled.worker


@pytest.fixture(scope="module")
def pet_loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two LoRAs for the model of `small`."""
    folder = tmp_path_factory.mktemp("pet_loras")
    write_lora(folder / "cat", llama_tensors(1), **CAT)
    write_lora(folder / "dog", llama_tensors(2), **CAT)
    return folder


def apply_loras(worker: WorkerProcess, folder: Path, loras: Any = ()) -> list[float]:
    """Apply exactly these LoRAs with their weights; return the effect of each."""
    requests = [{"name": name, "path": str(folder / name), "weight": weight} for name, weight in loras]
    effects: list[float] = ask(worker, "apply_loras", adapters=requests)
    return effects


def learned(worker: WorkerProcess) -> set[str]:
    """Return the LoRAs whose trained words the model writes after the prompt they were trained on."""
    texts = {name: answer(worker, lesson.beginning, max_new_tokens=4).text for name, lesson in LESSONS.items()}
    return {name for name, text in texts.items() if text.startswith(LESSONS[name].words)}


def top_logprobs(generated: Answer) -> list[list[float]]:
    """Return the top log-probabilities [tokens, TOP] of an answer."""
    return [[candidate.logprob for candidate in chances.top] for chances in generated.logprobs]


def fingerprint(worker: WorkerProcess) -> list[Any]:
    """Return top log-probabilities after BEGINNINGS, to the sixth digit, as a fingerprint of the model."""
    forget(worker)
    return [top_logprobs(answer(worker, prompt, max_new_tokens=1, top_logprobs=TOP)) for prompt in BEGINNINGS]


# -- compared with PEFT ------------------------------------------------------------------------------------------------


@pytest.mark.lora("one", "several", "weights", loader="Transformers")
@pytest.mark.parametrize("form", [form for form in FORMS if form != "eager"])
def test_answers_equal_those_of_peft(workers: WorkerPool, shallow_folder: Path, shallow_loras: Path, form: str) -> None:
    """In float32 they differ by rounding: the reference adds the LoRAs to weights, the engine to outputs of layers."""
    options, arguments = FORMS[form]
    sets, beginnings, tokens = [WEIGHTED], BEGINNINGS[:1], 2  # other dtypes than float32 are slow on a CPU
    if form == "float32":
        sets = [*ALONE, TOGETHER, WEIGHTED, (("green", 0.5), ("banana", 2.0))]
        beginnings, tokens = BEGINNINGS, TOKENS
    expected = peft_answers(shallow_folder, shallow_loras, sets, beginnings, tokens, arguments)
    with workers.lease(shallow_folder, TRANSFORMERS, **options) as pooled:
        for loras, answers in zip(sets, expected, strict=True):
            apply_loras(pooled.worker, shallow_loras, loras)
            for beginning, theirs in zip(beginnings, answers, strict=True):
                forget(pooled.worker)  # in 8 bits logits depend on how many tokens one pass evaluates
                ours = answer(pooled.worker, beginning, max_new_tokens=tokens, top_logprobs=TOP)
                assert ours.text == theirs["text"], loras
                for mine, logprobs in zip(top_logprobs(ours), theirs["logprobs"], strict=False):
                    assert mine == pytest.approx(logprobs, abs=2e-4), (loras, beginning)
        apply_loras(pooled.worker, shallow_loras)


VARIANTS: dict[str, dict[str, Any]] = {
    "patterns": {
        "target_modules": ["q_proj", "k_proj", "down_proj"],
        "rank_pattern": {"k_proj": 3, r"layers\.1\.self_attn\.q_proj": 5},
        "alpha_pattern": {"down_proj": 1},
    },
    "rslora": {"target_modules": ["v_proj"], "use_rslora": True},
    "dora": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "biased": {"target_modules": ["o_proj"], "lora_bias": True},
    "dropout": {"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.5},
    "embeddings": {"target_modules": ["embed_tokens", "lm_head"]},
    "float16": {"target_modules": ["gate_proj"], "dtype": "float16"},
}


def test_every_variant_of_a_lora_has_the_effect_it_has_in_peft(
    small: WorkerProcess, kinds: dict[str, Path], tmp_path: Path
) -> None:
    adapters = {name: {"r": 4, "lora_alpha": 8, "strength": 0.3, **config} for name, config in VARIANTS.items()}
    logits = peft_logits(kinds["llama"], tmp_path, adapters, ask(small, "encode", text=FRANCE))
    for name in ["", *VARIANTS]:
        apply_loras(small, tmp_path, [(name, 1.0)] if name else [])
        ours = top_logprobs(answer(small, FRANCE, max_new_tokens=1, top_logprobs=TOP))[0]
        last = logits[name or "none"][-1].astype(np.float64)
        theirs = np.sort(last - np.log(np.exp(last - last.max()).sum()) - last.max())[::-1][:TOP]
        assert ours == pytest.approx(theirs.tolist(), abs=1e-4), name


# -- changing the set --------------------------------------------------------------------------------------------------


@pytest.mark.lora("one", "several", "hot", loader="Transformers")
def test_only_the_applied_loras_affect_the_answers_whatever_the_order(hf: WorkerProcess, loras_folder: Path) -> None:
    for loras in [ALONE[0], TOGETHER[::-1], ALONE[1], ()]:
        effects = apply_loras(hf, loras_folder, loras)
        assert all(effect > 1 for effect in effects) and len(effects) == len(loras)
        assert learned(hf) == {name for name, _ in loras}


def test_the_same_set_gives_the_same_logits_whatever_the_order(shallow: WorkerProcess, shallow_loras: Path) -> None:
    apply_loras(shallow, shallow_loras)
    states = {frozenset[Any](): np.array(fingerprint(shallow))}
    for loras in [ALONE[0], TOGETHER, ALONE[1], (), TOGETHER[::-1], ALONE[0], ()]:
        effects = apply_loras(shallow, shallow_loras, loras)
        assert all(effect > 1 for effect in effects) and len(effects) == len(loras)
        now = np.array(fingerprint(shallow))
        before = states.setdefault(frozenset(loras), now)
        assert np.abs(now - before).max() <= (1e-4 if loras else 0)
    assert all(np.abs(first - second).max() > 0.1 for first, second in itertools.combinations(states.values(), 2))


def test_a_weight_of_0_disables_a_lora(small: WorkerProcess, pet_loras: Path) -> None:
    apply_loras(small, pet_loras, [("dog", 1.0)])
    expected = fingerprint(small)
    assert apply_loras(small, pet_loras, [("cat", 0.0), ("dog", 1.0)])[0] == 0
    assert fingerprint(small) == expected


def test_any_number_of_loras_can_be_applied(small: WorkerProcess, pet_loras: Path, tmp_path: Path) -> None:
    apply_loras(small, pet_loras, [("cat", 1.0), ("dog", 0.5)])
    expected = np.array(fingerprint(small))
    names = [str(number) for number in range(12)]
    for name in names:
        shutil.copytree(pet_loras / "cat", tmp_path / name)
    effects = apply_loras(small, tmp_path, [*((name, 1 / 12) for name in names), (str(pet_loras / "dog"), 0.5)])
    assert len(set(effects[:-1])) == 1
    assert np.abs(np.array(fingerprint(small)) - expected).max() < 1e-4


@pytest.mark.parametrize("form", ["float32", "8 bits", "4 bits"])
def test_removing_loras_restores_every_logit_to_the_last_bit(
    shallow_folder: Path, shallow_loras: Path, form: str
) -> None:
    result = apply_and_remove(shallow_folder, shallow_loras, ["banana", "green"], **FORMS[form][0])
    assert result["changed"] > 1
    assert result["same"]
    assert result["added"] == result["replaced"] == []


def test_caches_from_before_a_change_are_not_used_after_it(small: WorkerProcess, pet_loras: Path) -> None:
    apply_loras(small, pet_loras)
    answer(small, FRANCE, max_new_tokens=2)
    without_loras = answer(small, FRANCE, max_new_tokens=2, top_logprobs=TOP)
    assert without_loras.done.cached_tokens > 0
    apply_loras(small, pet_loras, [("cat", 1.0)])
    changed = answer(small, FRANCE, max_new_tokens=2, top_logprobs=TOP)
    assert changed.done.cached_tokens == 0
    forget(small)
    assert (
        top_logprobs(changed)
        == top_logprobs(answer(small, FRANCE, max_new_tokens=2, top_logprobs=TOP))
        != top_logprobs(without_loras)
    )


def repeated_lora(source: Path, folder: Path, times: int) -> None:
    """Write the LoRA in `source` with its rank, and so its size, multiplied by `times`, and the same effect."""
    folder.mkdir(parents=True)
    config = json.loads((source / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": times * config["r"]}))
    weights = read_safetensors(source / "adapter_model.safetensors")
    repeated = {
        name: np.tile(array, (times, 1) if "lora_A" in name else (1, times)).copy() for name, array in weights.items()
    }
    write_safetensors(folder / "adapter_model.safetensors", repeated)


def test_applying_and_removing_does_not_leak_memory(
    shallow: WorkerProcess, shallow_loras: Path, tmp_path: Path
) -> None:
    """The LoRAs are as large as those of the demo model with all its layers."""
    for name, _ in TOGETHER:
        repeated_lora(shallow_loras / name, tmp_path / name, 7)
    sizes = []
    for _ in range(ROUNDS):
        apply_loras(shallow, tmp_path, TOGETHER)
        apply_loras(shallow, tmp_path)
        sizes.append(cpu_memory.resident_memory(shallow.pid))
    smallest = min((tmp_path / name / "adapter_model.safetensors").stat().st_size for name, _ in TOGETHER)
    assert growth(sizes) < ROUNDS // 2 * smallest, "leaking the smaller LoRA every time would take more"


def test_loras_work_with_offloaded_weights(workers: WorkerPool, shallow_folder: Path, shallow_loras: Path) -> None:
    with workers.lease(shallow_folder, TRANSFORMERS) as pooled:
        apply_loras(pooled.worker, shallow_loras, TOGETHER)
        in_memory = np.array(fingerprint(pooled.worker))
        apply_loras(pooled.worker, shallow_loras)
    with workers.lease(shallow_folder, TRANSFORMERS, cpu_memory="150MiB", disk=True) as pooled:
        assert {note.option for note in pooled.info.notes} == {"cpu_memory"}
        without_loras = fingerprint(pooled.worker)
        apply_loras(pooled.worker, shallow_loras, TOGETHER)
        assert np.abs(np.array(fingerprint(pooled.worker)) - in_memory).max() < 1e-4
        assert np.abs(np.array(without_loras) - in_memory).max() > 0.1
        apply_loras(pooled.worker, shallow_loras)
        assert fingerprint(pooled.worker) == without_loras


def test_loras_work_with_encoder_decoder_models(workers: WorkerPool, kinds: dict[str, Path], tmp_path: Path) -> None:
    modules = [f"encoder.block.{block}.layer.0.SelfAttention" for block in range(2)]
    modules += [f"decoder.block.{block}.layer.1.EncDecAttention" for block in range(2)]
    shapes = {f"{module}.{projection}": (32, 32) for module in modules for projection in ("q", "v")}
    write_lora(tmp_path / "cat", pairs(shapes, 3), r=4, target_modules=r".*(encoder.*SelfAttention|EncDec.*)\.[qv]")
    with workers.lease(kinds["t5"], TRANSFORMERS) as pooled:
        without_loras = fingerprint(pooled.worker)
        (effect,) = apply_loras(pooled.worker, tmp_path, [("cat", 1.0)])
        assert effect > 0.01
        assert fingerprint(pooled.worker) != without_loras
        apply_loras(pooled.worker, tmp_path)
        assert fingerprint(pooled.worker) == without_loras


# -- broken LoRAs ------------------------------------------------------------------------------------------------------

CAT: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
Tensors = dict[str, Any]


def write_lora(folder: Path, arrays: Tensors, **config: Any) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    write_safetensors(folder / "adapter_model.safetensors", arrays)


def pairs(shapes: dict[str, tuple[int, int]], seed: int) -> Tensors:
    """Return A and B of rank 4 for modules with these numbers of inputs and outputs."""
    rng = np.random.default_rng(seed)
    return {
        f"base_model.model.{module}.lora_{half}.weight": rng.normal(0, 0.3, shape).astype(np.float32)
        for module, (inputs, outputs) in shapes.items()
        for half, shape in (("A", (4, inputs)), ("B", (outputs, 4)))
    }


def llama_tensors(seed: int) -> Tensors:
    """Return a LoRA for the q and v projections of tests/support/hf_tiny.py's Llama."""
    widths = {"q_proj": 32, "v_proj": 16}
    return pairs(
        {f"model.layers.{layer}.self_attn.{name}": (32, width) for layer in range(4) for name, width in widths.items()},
        seed,
    )


def _deeper(tensors: Tensors) -> Tensors:
    return tensors | {Q.format(4, half): tensors[Q.format(3, half)] for half in "AB"}


def _incomplete(tensors: Tensors) -> Tensors:
    return {name: array for name, array in tensors.items() if name != Q.format(2, "B")}


def _wider(tensors: Tensors) -> Tensors:
    return {name: np.pad(array, ((0, 0), (0, 8))) if "lora_A" in name else array for name, array in tensors.items()}


def _with_embeddings(tensors: Tensors) -> Tensors:
    return tensors | {"base_model.model.model.embed_tokens.weight": np.zeros((49152, 32), np.float32)}


def _zeros(tensors: Tensors) -> Tensors:
    return {name: np.zeros_like(array) for name, array in tensors.items()}


def _infinite(tensors: Tensors) -> Tensors:
    return {name: np.full_like(array, np.inf) for name, array in tensors.items()}


def _unchanged(tensors: Tensors) -> Tensors:
    return tensors


BROKEN: dict[str, tuple[Any, dict[str, Any], str]] = {
    "another architecture": (_unchanged, {"target_modules": ["query_key_value"]}, "query_key_value"),
    "a deeper model": (_deeper, {}, f"no module for the tensor {Q.format(4, 'A')}"),
    "a wider model": (_wider, {}, Q.format(0, "A") + r" has the shape \[4, 40\], and the model needs \[4, 32\]"),
    "another rank": (_unchanged, {"r": 16}, Q.format(0, "A") + r" has the shape \[4, 32\]"),
    "a tensor missing": (_incomplete, {}, Q.format(2, "B") + " is missing"),
    "more than A and B": (_with_embeddings, {}, "embed_tokens.weight is neither A nor B"),
    "whole modules": (_unchanged, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "biases": (_unchanged, {"bias": "all"}, "bias"),
    "another initialization": (_unchanged, {"init_lora_weights": "pissa"}, "pissa"),
    "an unsupported key": (_unchanged, {"use_unknown_method": True}, "use_unknown_method, which PEFT"),
    "another type": (_unchanged, {"peft_type": "IA3"}, "IA3"),
    "zeros": (_zeros, {}, "changes no logit"),
    "not finite": (_infinite, {}, "no longer finite"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_lora_is_refused_by_name_and_the_applied_ones_stay(
    small: WorkerProcess, pet_loras: Path, tmp_path: Path, kind: str
) -> None:
    change, config, message = BROKEN[kind]
    write_lora(tmp_path / "bad", change(llama_tensors(3)), **CAT | config)
    apply_loras(small, pet_loras, [("dog", 1.0)])
    before = fingerprint(small)
    with pytest.raises(LoraWithoutEffect if kind == "zeros" else LoraRefused, match=message) as refused:
        apply_loras(small, pet_loras, [("cat", 1.0), (str(tmp_path / "bad"), 1.0)])
    assert isinstance(refused.value, (LoraWithoutEffect, LoraRefused))
    assert refused.value.lora.endswith("bad")
    assert fingerprint(small) == before


def test_names_of_other_training_code_mean_the_same(small: WorkerProcess, tmp_path: Path) -> None:
    """The adapter's name stays in the names of tensors; or a "model." is missing, of the model without its output."""
    tensors = llama_tensors(3)
    named = {name.replace(".weight", ".default.weight"): array for name, array in tensors.items()}
    inner = {name.replace("model.model.model.", "model.model.", 1): array for name, array in tensors.items()}
    for folder, arrays in (("usual", tensors), ("named", named), ("inner", inner)):
        write_lora(tmp_path / folder, arrays, **CAT)
    effects = [apply_loras(small, tmp_path, [(folder, 1.0)]) for folder in ("usual", "named", "inner")]
    assert effects[0] == effects[1] == effects[2]


def test_truncated_files_and_pickles_are_refused(small: WorkerProcess, pet_loras: Path, tmp_path: Path) -> None:
    apply_loras(small, pet_loras)
    without_loras = fingerprint(small)
    for name in ("truncated", "pickle", "invalid"):
        shutil.copytree(pet_loras / "cat", tmp_path / name)
    weights = tmp_path / "truncated" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (tmp_path / "pickle" / "adapter_model.safetensors").rename(tmp_path / "pickle" / "adapter_model.bin")
    (tmp_path / "invalid" / "adapter_config.json").write_text("{")
    (tmp_path / "adapter.gguf").write_bytes(b"GGUF")
    causes = {
        "truncated": "incomplete metadata",
        "pickle": "No such file.*adapter_model.safetensors",
        "invalid": "JSONDecodeError",
        "adapter.gguf": "a GGUF adapter",
    }
    for name, cause in causes.items():
        with pytest.raises(LoraRefused, match=cause):
            apply_loras(small, tmp_path, [(name, 1.0)])
    assert fingerprint(small) == without_loras
