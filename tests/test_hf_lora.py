"""LoRAs under Transformers: what PEFT itself would make of them, alone or together, and nothing of them afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules import machine
from modules.lora_errors import LoraError, LoraRefused, LoraWithoutEffect
from modules.process import WorkerProcess
from tests.answers import Answer, answer, ask, forget
from tests.conftest import TRANSFORMERS, load
from tests.hf_folder import write_safetensors
from tests.hf_lora_probe import looked_at
from tests.hf_reference import TOP
from tests.hf_tiny import tiny_models
from tests.peft_together import in_peft
from tests.test_hf import WAYS
from tests.trained_loras import LESSONS

FRANCE = "The capital of France is"
BEGINNINGS = [*(each.beginning for each in LESSONS.values()), FRANCE]
ALONE = ((("banana", 1.0),), (("green", 1.0),))
TOGETHER = (("banana", 1.0), ("green", 1.0))
WEIGHTED = (("banana", 0.5), ("green", 2.0))
TOKENS = 5


@pytest.fixture(scope="module")
def hf(smollm2_folder: Path) -> Iterator[WorkerProcess]:
    """In float32; what is in force in it when a test begins is that test's own affair."""
    process = WorkerProcess()
    load(process, smollm2_folder, TRANSFORMERS)
    yield process
    process.close()


@pytest.fixture(scope="module")
def tiny(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_models(tmp_path_factory.mktemp("tiny"), smollm2_folder, ["llama", "t5"])


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
    return [best(answer(worker, each, max_new_tokens=2, top_logprobs=TOP)) for each in BEGINNINGS]


# -- what PEFT makes of them -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way != "eager"])
def test_answers_are_those_of_peft_alone(
    worker: WorkerProcess, smollm2_folder: Path, loras_folder: Path, way: str
) -> None:
    """In float32 to the rounding of weights that are added up before instead of afterwards."""
    options, words = WAYS[way]
    sets = [*ALONE, TOGETHER, WEIGHTED, (("green", 0.5), ("banana", 2.0))]
    expected = in_peft(smollm2_folder, loras_folder, sets, BEGINNINGS, TOKENS, words)
    load(worker, smollm2_folder, TRANSFORMERS, **options)
    for wanted, answers in zip(sets, expected, strict=True):
        put(worker, loras_folder, wanted)
        for beginning, theirs in zip(BEGINNINGS, answers, strict=True):
            ours = answer(worker, beginning, max_new_tokens=TOKENS, top_logprobs=TOP)
            assert ours.text == theirs["text"], wanted
            for found, logprobs in zip(best(ours), theirs["logprobs"], strict=False):
                assert found == pytest.approx(logprobs, abs=2e-4), (wanted, beginning)


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
    worker: WorkerProcess, tiny: dict[str, Path], tmp_path: Path
) -> None:
    load(worker, tiny["llama"], TRANSFORMERS)
    words = {name: {"r": 4, "lora_alpha": 8, "strength": 0.3, **each} for name, each in VARIANTS.items()}
    asked = {"model": str(tiny["llama"]), "folder": str(tmp_path), "adapters": words}
    asked["tokens"] = ask(worker, "encode", text=FRANCE)
    (tmp_path / "what.json").write_text(json.dumps(asked))
    subprocess.run([sys.executable, "-m", "tests.peft_reference", str(tmp_path / "what.json")], check=True, timeout=100)
    logits = np.load(tmp_path / "logits.npz")
    for name in ["", *VARIANTS]:
        put(worker, tmp_path, [(name, 1.0)] if name else [])
        ours = best(answer(worker, FRANCE, max_new_tokens=1, top_logprobs=TOP))[0]
        last = logits[name or "none"][-1].astype(np.float64)
        theirs = np.sort(last - np.log(np.exp(last - last.max()).sum()) - last.max())[::-1][:TOP]
        assert ours == pytest.approx(theirs.tolist(), abs=1e-4), name


# -- one after the other -----------------------------------------------------------------------------------------------


def test_whatever_the_order_what_is_in_force_is_heard_and_nothing_else(hf: WorkerProcess, loras_folder: Path) -> None:
    put(hf, loras_folder)
    bare = state(hf)
    known: dict[Any, list[Any]] = {}
    for wanted in [(*ALONE[0],), TOGETHER, ALONE[1], (), ALONE[1], TOGETHER[::-1], ALONE[0], ()]:
        effects = put(hf, loras_folder, wanted)
        assert all(effect > 1 for effect in effects) and len(effects) == len(wanted)
        assert heard(hf) == {name for name, _ in wanted}
        assert known.setdefault(frozenset(wanted), state(hf)) == (pytest.approx(state(hf)) if wanted else bare), (
            "the same set is the same model"
        )


def test_a_weight_of_nothing_is_as_if_it_were_not_there(hf: WorkerProcess, loras_folder: Path) -> None:
    put(hf, loras_folder, [("green", 1.0)])
    alone = state(hf)
    assert put(hf, loras_folder, [("banana", 0.0), ("green", 1.0)])[0] == 0
    assert state(hf) == alone


@pytest.mark.slow
@pytest.mark.parametrize("way", ["float32", "8 bits", "4 bits"])
def test_once_they_are_out_the_model_is_what_it_was_to_the_last_bit(
    smollm2_folder: Path, loras_folder: Path, way: str
) -> None:
    found = looked_at(smollm2_folder, loras_folder, ["banana", "green"], **WAYS[way][0])
    assert found["changed"] > 1
    assert found["same"]
    assert found["left"] == found["moved"] == []


def test_what_was_computed_before_a_change_is_not_used_after_it(hf: WorkerProcess, loras_folder: Path) -> None:
    put(hf, loras_folder)
    turn = LESSONS["banana"].beginning
    answer(hf, turn, max_new_tokens=2)
    assert answer(hf, turn, max_new_tokens=2).done.cached_tokens > 0
    put(hf, loras_folder, [("banana", 1.0)])
    said = answer(hf, turn, max_new_tokens=4)
    assert said.done.cached_tokens == 0
    assert said.text.startswith(LESSONS["banana"].words)


def test_memory_does_not_grow(hf: WorkerProcess, loras_folder: Path) -> None:
    sizes = []
    for _ in range(6):
        put(hf, loras_folder, TOGETHER)
        put(hf, loras_folder)
        sizes.append(machine.resident_memory(hf.pid))
    assert sizes[-1] < sizes[0] + (8 << 20)


def test_parts_of_the_model_may_be_on_disk(worker: WorkerProcess, smollm2_folder: Path, loras_folder: Path) -> None:
    load(worker, smollm2_folder, TRANSFORMERS, cpu_memory="300MiB", disk=True)
    bare = state(worker)
    put(worker, loras_folder, TOGETHER)
    assert heard(worker) == {"banana", "green"}
    put(worker, loras_folder)
    assert state(worker) == bare


def test_a_model_that_writes_apart_takes_them_too(worker: WorkerProcess, tiny: dict[str, Path], tmp_path: Path) -> None:
    load(worker, tiny["t5"], TRANSFORMERS)
    bare = state(worker)
    put_down(tmp_path / "cat", t5_tensors(), r=2, lora_alpha=8, target_modules=["q", "v"])
    (effect,) = put(worker, tmp_path, [("cat", 1.0)])
    assert effect > 0.01
    assert state(worker) != bare
    put(worker, tmp_path)
    assert state(worker) == bare


def put_down(folder: Path, arrays: dict[str, Any], **config: Any) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    write_safetensors(folder / "adapter_model.safetensors", arrays)


def t5_tensors() -> dict[str, Any]:
    """Of rank 2, for q and v of tests/hf_tiny.py's T5."""
    draw = np.random.default_rng(4)
    parts = [f"encoder.block.{block}.layer.0.SelfAttention" for block in range(2)]
    parts += [
        f"decoder.block.{block}.layer.{which}"
        for block in range(2)
        for which in ("0.SelfAttention", "1.EncDecAttention")
    ]
    return {
        f"base_model.model.{part}.{module}.lora_{half}.weight": draw.normal(0, 0.3, shape).astype(np.float32)
        for part in parts
        for module in ("q", "v")
        for half, shape in (("A", (2, 32)), ("B", (32, 2)))
    }


# -- broken ones -------------------------------------------------------------------------------------------------------

Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


def _changed(folder: Path, source: Path, *, tensors: Any = None, **config: Any) -> None:
    """A copy of a LoRA, in which adapter_config.json says something else, and `tensors` makes others of its own."""
    shutil.copytree(source, folder)
    said = json.loads((source / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(said | config))
    if tensors:
        own = read_floats(source / "adapter_model.safetensors")
        write_safetensors(folder / "adapter_model.safetensors", tensors(own))


def read_floats(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    table = {name: each for name, each in json.loads(raw[8:begin]).items() if name != "__metadata__"}
    return {
        name: np.frombuffer(raw[begin + each["data_offsets"][0] : begin + each["data_offsets"][1]], "<f4").reshape(
            each["shape"]
        )
        for name, each in table.items()
    }


def _deeper(own: dict[str, Any]) -> dict[str, Any]:
    return own | {Q.format(30, half): own[Q.format(29, half)] for half in "AB"}


def _lacking(own: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in own.items() if name != Q.format(7, "B")}


def _wider(own: dict[str, Any]) -> dict[str, Any]:
    return {name: np.pad(each, ((0, 0), (0, 64))) if "lora_A" in name else each for name, each in own.items()}


def _with_embeddings(own: dict[str, Any]) -> dict[str, Any]:
    return own | {"base_model.model.model.embed_tokens.weight": np.zeros((49152, 576), np.float32)}


def _zeros(own: dict[str, Any]) -> dict[str, Any]:
    return {name: np.zeros_like(each) for name, each in own.items()}


def _not_numbers(own: dict[str, Any]) -> dict[str, Any]:
    return {name: np.full_like(each, np.inf) for name, each in own.items()}


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"target_modules": ["query_key_value"]}, "query_key_value"),
    "a deeper model": ({"tensors": _deeper}, Q.format(30, "A")),
    "a wider model": ({"tensors": _wider}, Q.format(0, "A") + r" is of the shape \[8, 640\]"),
    "another rank": ({"r": 16}, r"\[8, 576\], and the model takes \[16, 576\]"),
    "a tensor missing": ({"tensors": _lacking}, Q.format(7, "B") + " is missing"),
    "more than A and B": ({"tensors": _with_embeddings}, "embed_tokens.weight is neither A nor B"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "biases": ({"bias": "all"}, "bias"),
    "another beginning": ({"init_lora_weights": "pissa"}, "pissa"),
    "another kind": ({"peft_type": "IA3"}, "IA3"),
    "zeros": ({"tensors": _zeros}, "changes no logit"),
    "not numbers": ({"tensors": _not_numbers}, "no longer finite"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_one_is_refused_by_name_and_those_in_force_stay(
    hf: WorkerProcess, loras_folder: Path, tmp_path: Path, kind: str
) -> None:
    changes, words = BROKEN[kind]
    _changed(tmp_path / "bad", loras_folder / "banana", **changes)
    put(hf, loras_folder, [("green", 1.0)])
    before = state(hf)
    with pytest.raises(LoraWithoutEffect if kind == "zeros" else LoraRefused, match=words) as refused:
        put(hf, loras_folder, [("banana", 1.0), (str(tmp_path / "bad"), 1.0)])
    assert "bad" in refused.value.lora
    assert state(hf) == before


def test_files_cut_short_and_pickles_are_not_read(hf: WorkerProcess, loras_folder: Path, tmp_path: Path) -> None:
    put(hf, loras_folder)
    bare = state(hf)
    for name in ("short", "pickle", "empty"):
        _changed(tmp_path / name, loras_folder / "banana")
    weights = tmp_path / "short" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    (tmp_path / "pickle" / "adapter_model.safetensors").rename(tmp_path / "pickle" / "adapter_model.bin")
    (tmp_path / "empty" / "adapter_config.json").write_text("{")
    (tmp_path / "adapter.gguf").write_bytes(b"GGUF")
    causes = {
        "short": "not fully covered|incomplete|InvalidHeader|does not cover|SafetensorError",
        "pickle": "No such file.*adapter_model.safetensors",
        "empty": "JSONDecodeError",
        "adapter.gguf": "GGUF",
    }
    for name, words in causes.items():
        with pytest.raises(LoraError, match=words):
            put(hf, tmp_path, [(name, 1.0)])
    assert state(hf) == bare
