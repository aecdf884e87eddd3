"""LoRAs under Transformers: what PEFT itself would make of them, alone or together, and nothing of them afterwards."""

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
from tests.engines.hf.test_hf import WAYS
from tests.support.answers import Answer, answer, ask, forget
from tests.support.hf_folder import write_safetensors
from tests.support.hf_lora_probe import apply_and_remove
from tests.support.hf_reference import TOP
from tests.support.hf_tiny import tiny_models
from tests.support.memory_growth import ROUNDS, growth
from tests.support.peft_reference import peft_logits
from tests.support.peft_together import in_peft
from tests.support.quantised_folders import read_safetensors
from tests.support.trained_loras import LESSONS
from tests.support.worker_pool import WorkerPool

FRANCE = "The capital of France is"
BEGINNINGS = [*(each.beginning for each in LESSONS.values()), FRANCE]
ALONE = ((("banana", 1.0),), (("green", 1.0),))
TOGETHER = (("banana", 1.0), ("green", 1.0))
WEIGHTED = (("banana", 0.5), ("green", 2.0))
TOKENS = 3


@pytest.fixture
def hf(workers: WorkerPool, smollm2_folder: Path, loras_folder: Path) -> Iterator[WorkerProcess]:
    """The demo model in float32, for what the LoRAs have it say."""
    with workers.lease(smollm2_folder, TRANSFORMERS) as pooled:
        yield pooled.worker
        put(pooled.worker, loras_folder)


@pytest.fixture
def shallow(workers: WorkerPool, shallow_folder: Path, shallow_loras: Path) -> Iterator[WorkerProcess]:
    """Its first layers in float32, for numbers."""
    with workers.lease(shallow_folder, TRANSFORMERS) as pooled:
        yield pooled.worker
        put(pooled.worker, shallow_loras)


@pytest.fixture(scope="module")
def kinds(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_models(tmp_path_factory.mktemp("kinds"), smollm2_folder, ["llama", "t5"])


@pytest.fixture
def small(workers: WorkerPool, kinds: dict[str, Path]) -> Iterator[WorkerProcess]:
    """With random weights, for what does not depend on words. A test finds applied what the one before has applied."""
    with workers.lease(kinds["llama"], TRANSFORMERS) as pooled:
        yield pooled.worker


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs for it."""
    folder = tmp_path_factory.mktemp("pets")
    put_down(folder / "cat", llama_tensors(1), **CAT)
    put_down(folder / "dog", llama_tensors(2), **CAT)
    return folder


def put(worker: WorkerProcess, folder: Path, wanted: Any = ()) -> list[float]:
    """Have exactly those be in force, each with its weight; the effect of each."""
    asked = [{"name": name, "path": str(folder / name), "weight": weight} for name, weight in wanted]
    effects: list[float] = ask(worker, "apply_loras", adapters=asked)
    return effects


def heard(worker: WorkerProcess) -> set[str]:
    """Those whose words the model says where they were taught to be said."""
    said = {name: answer(worker, each.beginning, max_new_tokens=4).text for name, each in LESSONS.items()}
    return {name for name, text in said.items() if text.startswith(LESSONS[name].words)}


def best(told: Answer) -> list[list[float]]:
    return [[each.logprob for each in chances.top] for chances in told.chances]


def state(worker: WorkerProcess) -> list[Any]:
    """What can be told of the model from outside, to the sixth digit of a log-probability."""
    forget(worker)
    return [best(answer(worker, each, max_new_tokens=1, top_logprobs=TOP)) for each in BEGINNINGS]


# -- what PEFT makes of them -------------------------------------------------------------------------------------------


@pytest.mark.lora("one", "several", "weights", loader="Transformers")
@pytest.mark.parametrize("way", [way for way in WAYS if way != "eager"])
def test_answers_are_those_of_peft_alone(
    workers: WorkerPool, shallow_folder: Path, shallow_loras: Path, way: str
) -> None:
    """In float32 to the rounding of weights that are added up before instead of afterwards."""
    options, words = WAYS[way]
    sets, beginnings, tokens = [WEIGHTED], BEGINNINGS[:1], 2  # other numbers than float32 are slow on a CPU
    if way == "float32":
        sets = [*ALONE, TOGETHER, WEIGHTED, (("green", 0.5), ("banana", 2.0))]
        beginnings, tokens = BEGINNINGS, TOKENS
    expected = in_peft(shallow_folder, shallow_loras, sets, beginnings, tokens, words)
    with workers.lease(shallow_folder, TRANSFORMERS, **options) as pooled:
        for wanted, answers in zip(sets, expected, strict=True):
            put(pooled.worker, shallow_loras, wanted)
            for beginning, theirs in zip(beginnings, answers, strict=True):
                forget(pooled.worker)  # in 8 bits it matters how many tokens are read at once
                ours = answer(pooled.worker, beginning, max_new_tokens=tokens, top_logprobs=TOP)
                assert ours.text == theirs["text"], wanted
                for found, logprobs in zip(best(ours), theirs["logprobs"], strict=False):
                    assert found == pytest.approx(logprobs, abs=2e-4), (wanted, beginning)
        put(pooled.worker, shallow_loras)


VARIANTS: dict[str, dict[str, Any]] = {
    "patterns": {
        "target_modules": ["q_proj", "k_proj", "down_proj"],
        "rank_pattern": {"k_proj": 3, r"layers\.1\.self_attn\.q_proj": 5},
        "alpha_pattern": {"down_proj": 1},
    },
    "root": {"target_modules": ["v_proj"], "use_rslora": True},
    "dora": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "biased": {"target_modules": ["o_proj"], "lora_bias": True},
    "forgetful": {"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.5},
    "embeddings": {"target_modules": ["embed_tokens", "lm_head"]},
    "half": {"target_modules": ["gate_proj"], "dtype": "float16"},
}


def test_every_variant_of_a_lora_is_read_as_peft_reads_it(
    small: WorkerProcess, kinds: dict[str, Path], tmp_path: Path
) -> None:
    adapters = {name: {"r": 4, "lora_alpha": 8, "strength": 0.3, **each} for name, each in VARIANTS.items()}
    logits = peft_logits(kinds["llama"], tmp_path, adapters, ask(small, "encode", text=FRANCE))
    for name in ["", *VARIANTS]:
        put(small, tmp_path, [(name, 1.0)] if name else [])
        ours = best(answer(small, FRANCE, max_new_tokens=1, top_logprobs=TOP))[0]
        last = logits[name or "none"][-1].astype(np.float64)
        theirs = np.sort(last - np.log(np.exp(last - last.max()).sum()) - last.max())[::-1][:TOP]
        assert ours == pytest.approx(theirs.tolist(), abs=1e-4), name


# -- one after the other -----------------------------------------------------------------------------------------------


@pytest.mark.lora("one", "several", "hot", loader="Transformers")
def test_whatever_the_order_what_is_in_force_is_heard_and_nothing_else(hf: WorkerProcess, loras_folder: Path) -> None:
    for wanted in [ALONE[0], TOGETHER[::-1], ALONE[1], ()]:
        effects = put(hf, loras_folder, wanted)
        assert all(effect > 1 for effect in effects) and len(effects) == len(wanted)
        assert heard(hf) == {name for name, _ in wanted}


def test_whatever_the_order_the_same_set_is_the_same_model(shallow: WorkerProcess, shallow_loras: Path) -> None:
    put(shallow, shallow_loras)
    known = {frozenset[Any](): np.array(state(shallow))}
    for wanted in [ALONE[0], TOGETHER, ALONE[1], (), TOGETHER[::-1], ALONE[0], ()]:
        effects = put(shallow, shallow_loras, wanted)
        assert all(effect > 1 for effect in effects) and len(effects) == len(wanted)
        now = np.array(state(shallow))
        before = known.setdefault(frozenset(wanted), now)
        assert np.abs(now - before).max() <= (1e-4 if wanted else 0)
    assert all(np.abs(one - other).max() > 0.1 for one, other in itertools.combinations(known.values(), 2))


def test_a_weight_of_nothing_is_as_if_it_were_not_there(small: WorkerProcess, pets: Path) -> None:
    put(small, pets, [("dog", 1.0)])
    alone = state(small)
    assert put(small, pets, [("cat", 0.0), ("dog", 1.0)])[0] == 0
    assert state(small) == alone


def test_there_may_be_any_number(small: WorkerProcess, pets: Path, tmp_path: Path) -> None:
    put(small, pets, [("cat", 1.0), ("dog", 0.5)])
    expected = np.array(state(small))
    names = [str(number) for number in range(12)]
    for name in names:
        shutil.copytree(pets / "cat", tmp_path / name)
    effects = put(small, tmp_path, [*((name, 1 / 12) for name in names), (str(pets / "dog"), 0.5)])
    assert len(set(effects[:-1])) == 1
    assert np.abs(np.array(state(small)) - expected).max() < 1e-4


@pytest.mark.parametrize("way", ["float32", "8 bits", "4 bits"])
def test_once_they_are_out_the_model_is_what_it_was_to_the_last_bit(
    shallow_folder: Path, shallow_loras: Path, way: str
) -> None:
    found = apply_and_remove(shallow_folder, shallow_loras, ["banana", "green"], **WAYS[way][0])
    assert found["changed"] > 1
    assert found["same"]
    assert found["left"] == found["moved"] == []


def test_what_was_computed_before_a_change_is_not_used_after_it(small: WorkerProcess, pets: Path) -> None:
    put(small, pets)
    answer(small, FRANCE, max_new_tokens=2)
    bare = answer(small, FRANCE, max_new_tokens=2, top_logprobs=TOP)
    assert bare.done.cached_tokens > 0
    put(small, pets, [("cat", 1.0)])
    said = answer(small, FRANCE, max_new_tokens=2, top_logprobs=TOP)
    assert said.done.cached_tokens == 0
    forget(small)
    assert best(said) == best(answer(small, FRANCE, max_new_tokens=2, top_logprobs=TOP)) != best(bare)


def repeated_lora(source: Path, folder: Path, times: int) -> None:
    """Write the LoRA in `source` with its rank, and so its size, multiplied, and the same effect."""
    folder.mkdir(parents=True)
    config = json.loads((source / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": times * config["r"]}))
    weights = read_safetensors(source / "adapter_model.safetensors")
    repeated = {
        name: np.tile(each, (times, 1) if "lora_A" in name else (1, times)).copy() for name, each in weights.items()
    }
    write_safetensors(folder / "adapter_model.safetensors", repeated)


def test_memory_does_not_grow(shallow: WorkerProcess, shallow_loras: Path, tmp_path: Path) -> None:
    """With LoRAs as large as those of the whole model."""
    for name, _ in TOGETHER:
        repeated_lora(shallow_loras / name, tmp_path / name, 7)
    sizes = []
    for _ in range(ROUNDS):
        put(shallow, tmp_path, TOGETHER)
        put(shallow, tmp_path)
        sizes.append(cpu_memory.resident_memory(shallow.pid))
    smallest = min((tmp_path / name / "adapter_model.safetensors").stat().st_size for name, _ in TOGETHER)
    assert growth(sizes) < ROUNDS // 2 * smallest, "even the smaller one, left behind each time, takes more"


def test_parts_of_the_model_may_be_on_disk(workers: WorkerPool, shallow_folder: Path, shallow_loras: Path) -> None:
    with workers.lease(shallow_folder, TRANSFORMERS) as pooled:
        put(pooled.worker, shallow_loras, TOGETHER)
        in_memory = np.array(state(pooled.worker))
        put(pooled.worker, shallow_loras)
    with workers.lease(shallow_folder, TRANSFORMERS, cpu_memory="150MiB", disk=True) as pooled:
        assert {note.option for note in pooled.info.notes} == {"cpu_memory"}
        bare = state(pooled.worker)
        put(pooled.worker, shallow_loras, TOGETHER)
        assert np.abs(np.array(state(pooled.worker)) - in_memory).max() < 1e-4
        assert np.abs(np.array(bare) - in_memory).max() > 0.1
        put(pooled.worker, shallow_loras)
        assert state(pooled.worker) == bare


def test_an_encoder_and_decoder_takes_them_too(workers: WorkerPool, kinds: dict[str, Path], tmp_path: Path) -> None:
    places = [f"encoder.block.{block}.layer.0.SelfAttention" for block in range(2)]
    places += [f"decoder.block.{block}.layer.1.EncDecAttention" for block in range(2)]
    shapes = {f"{place}.{module}": (32, 32) for place in places for module in ("q", "v")}
    put_down(tmp_path / "cat", pairs(shapes, 3), r=4, target_modules=r".*(encoder.*SelfAttention|EncDec.*)\.[qv]")
    with workers.lease(kinds["t5"], TRANSFORMERS) as pooled:
        bare = state(pooled.worker)
        (effect,) = put(pooled.worker, tmp_path, [("cat", 1.0)])
        assert effect > 0.01
        assert state(pooled.worker) != bare
        put(pooled.worker, tmp_path)
        assert state(pooled.worker) == bare


# -- broken ones -------------------------------------------------------------------------------------------------------

CAT: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
Tensors = dict[str, Any]


def put_down(folder: Path, arrays: Tensors, **config: Any) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    write_safetensors(folder / "adapter_model.safetensors", arrays)


def pairs(shapes: dict[str, tuple[int, int]], seed: int) -> Tensors:
    """A and B of rank 4 for modules of so many inputs and outputs."""
    draw = np.random.default_rng(seed)
    return {
        f"base_model.model.{module}.lora_{half}.weight": draw.normal(0, 0.3, shape).astype(np.float32)
        for module, (inputs, outputs) in shapes.items()
        for half, shape in (("A", (4, inputs)), ("B", (outputs, 4)))
    }


def llama_tensors(seed: int) -> Tensors:
    """For q and v of tests/support/hf_tiny.py's Llama."""
    widths = {"q_proj": 32, "v_proj": 16}
    return pairs(
        {f"model.layers.{layer}.self_attn.{each}": (32, widths[each]) for layer in range(4) for each in widths}, seed
    )


def _deeper(own: Tensors) -> Tensors:
    return own | {Q.format(4, half): own[Q.format(3, half)] for half in "AB"}


def _lacking(own: Tensors) -> Tensors:
    return {name: each for name, each in own.items() if name != Q.format(2, "B")}


def _wider(own: Tensors) -> Tensors:
    return {name: np.pad(each, ((0, 0), (0, 8))) if "lora_A" in name else each for name, each in own.items()}


def _with_embeddings(own: Tensors) -> Tensors:
    return own | {"base_model.model.model.embed_tokens.weight": np.zeros((49152, 32), np.float32)}


def _zeros(own: Tensors) -> Tensors:
    return {name: np.zeros_like(each) for name, each in own.items()}


def _endless(own: Tensors) -> Tensors:
    return {name: np.full_like(each, np.inf) for name, each in own.items()}


def _same(own: Tensors) -> Tensors:
    return own


BROKEN: dict[str, tuple[Any, dict[str, Any], str]] = {
    "another architecture": (_same, {"target_modules": ["query_key_value"]}, "query_key_value"),
    "a deeper model": (_deeper, {}, f"no place for the tensor {Q.format(4, 'A')}"),
    "a wider model": (_wider, {}, Q.format(0, "A") + r" is of the shape \[4, 40\], and the model takes \[4, 32\]"),
    "another rank": (_same, {"r": 16}, Q.format(0, "A") + r" is of the shape \[4, 32\]"),
    "a tensor missing": (_lacking, {}, Q.format(2, "B") + " is missing"),
    "more than A and B": (_with_embeddings, {}, "embed_tokens.weight is neither A nor B"),
    "whole modules": (_same, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "biases": (_same, {"bias": "all"}, "bias"),
    "another beginning": (_same, {"init_lora_weights": "pissa"}, "pissa"),
    "what is not known yet": (_same, {"use_marvels": True}, "use_marvels, which PEFT"),
    "another kind": (_same, {"peft_type": "IA3"}, "IA3"),
    "zeros": (_zeros, {}, "changes no logit"),
    "not numbers": (_endless, {}, "no longer finite"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_one_is_refused_by_name_and_those_in_force_stay(
    small: WorkerProcess, pets: Path, tmp_path: Path, kind: str
) -> None:
    change, config, words = BROKEN[kind]
    put_down(tmp_path / "bad", change(llama_tensors(3)), **CAT | config)
    put(small, pets, [("dog", 1.0)])
    before = state(small)
    with pytest.raises(LoraWithoutEffect if kind == "zeros" else LoraRefused, match=words) as refused:
        put(small, pets, [("cat", 1.0), (str(tmp_path / "bad"), 1.0)])
    assert refused.value.lora.endswith("bad")
    assert state(small) == before


def test_files_cut_short_and_pickles_are_not_read(small: WorkerProcess, pets: Path, tmp_path: Path) -> None:
    put(small, pets)
    bare = state(small)
    for name in ("short", "pickle", "torn"):
        shutil.copytree(pets / "cat", tmp_path / name)
    weights = tmp_path / "short" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (tmp_path / "pickle" / "adapter_model.safetensors").rename(tmp_path / "pickle" / "adapter_model.bin")
    (tmp_path / "torn" / "adapter_config.json").write_text("{")
    (tmp_path / "adapter.gguf").write_bytes(b"GGUF")
    causes = {
        "short": "incomplete metadata",
        "pickle": "No such file.*adapter_model.safetensors",
        "torn": "JSONDecodeError",
        "adapter.gguf": "a GGUF adapter",
    }
    for name, words in causes.items():
        with pytest.raises(LoraRefused, match=words):
            put(small, tmp_path, [(name, 1.0)])
    assert state(small) == bare
