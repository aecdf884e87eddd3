"""AutoAWQ with the real package from its overlay, in a real worker: its answers are those of its weights in floats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.errors import LoadFailed
from modules.core.paths import ROOT
from modules.loaders.availability import unavailable
from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import TRANSFORMERS, load
from tests.engines.hf.test_lora import TOGETHER, WEIGHTED, apply_loras, fingerprint, learned
from tests.support.answers import answer, ask, forget
from tests.support.hf_folder import write_safetensors
from tests.support.linked_folder import linked_folder
from tests.support.pickled_weights import pickle_program, pickle_weights
from tests.support.quantized_folders import plain, quantized_folder, read_safetensors
from tests.support.quantized_packing import Tensors
from tests.support.trained_loras import LESSONS
from tests.support.worker_pool import worker_with

AUTOAWQ = LOADERS["AutoAWQ"]
ABSENT = unavailable(AUTOAWQ)
pytestmark = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))

FRANCE = "The capital of France is"
SLOW, FLOAT16 = 0.02, 0.05
"""Rounding errors of likely tokens' log probabilities: with autoawq's own layers on a CPU, and with ours."""


@pytest.fixture(scope="module")
def shallow(shallow_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's first layers, and beside them the same dequantized, in a writable folder."""
    made, folder = tmp_path_factory.mktemp("shallow"), quantized_folder(shallow_folder, "awq")
    linked_folder(plain(folder), made / "plain")
    return linked_folder(folder, made / "packed")


@pytest.fixture(scope="module")
def process() -> Iterator[WorkerProcess]:
    """A worker that loads one folder after another, so that the package is imported once."""
    assert AUTOAWQ.overlay is not None
    with closing(worker_with(AUTOAWQ.overlay.folder)()) as started:
        yield started


@pytest.fixture
def awq(process: WorkerProcess, shallow: Path) -> WorkerProcess:
    load(process, shallow, AUTOAWQ)
    return process


@pytest.fixture
def floats(reloadable: WorkerProcess, shallow: Path) -> WorkerProcess:
    """A worker with the same weights, dequantized, in float32 under Transformers."""
    load(reloadable, plain(shallow), TRANSFORMERS)
    return reloadable


# -- what it says ------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_dequantized_weights(awq: WorkerProcess, floats: WorkerProcess) -> None:
    for prompt in (FRANCE, "1, 2, 3, 4, 5,"):
        alike(awq, floats, prompt, tokens=5)


def alike(awq: WorkerProcess, floats: WorkerProcess, prompt: str, tokens: int) -> None:
    replies = [answer(each, prompt, max_new_tokens=tokens, top_logprobs=5) for each in (awq, floats)]
    for mine, theirs in zip(*(each.logprobs for each in replies), strict=True):
        level = {each.text: each.logprob for each in theirs.top}
        assert theirs.chosen.logprob - level[mine.chosen.text] < FLOAT16
        assert mine.chosen.logprob == pytest.approx(level[mine.chosen.text], abs=FLOAT16)
        if mine.chosen.text != theirs.chosen.text:
            break  # the two tokens were almost equally likely


def test_a_second_turn_evaluates_only_the_new_tokens(awq: WorkerProcess) -> None:
    forget(awq)
    (paris,) = ask(awq, "encode", text=" Paris", add_special=False)
    first = answer(awq, FRANCE, max_new_tokens=4, logit_bias={str(paris): 100})
    assert first.text == " Paris" * 4, "which is read as the same tokens again"
    second = answer(awq, f"{FRANCE}{first.text} and", max_new_tokens=1)
    assert second.done.cached_tokens >= first.done.prompt_tokens + 3


# -- LoRAs -------------------------------------------------------------------------------------------------------------


@pytest.mark.lora("one", "several", "weights", "hot", loader="AutoAWQ")
def test_loras_have_the_effect_they_have_on_the_dequantized_weights(
    awq: WorkerProcess, floats: WorkerProcess, shallow_loras: Path
) -> None:
    before = fingerprint(awq)
    for wanted in (TOGETHER, WEIGHTED):
        ours, theirs = (apply_loras(each, shallow_loras, wanted) for each in (awq, floats))
        assert ours == pytest.approx(theirs, rel=0.1)
        assert min(ours) > 1
        for lesson in LESSONS.values():
            alike(awq, floats, lesson.beginning, tokens=2)
    assert apply_loras(awq, shallow_loras) == []
    assert fingerprint(awq) == before, "to the last digit"


def test_loras_make_the_model_say_their_lessons(
    process: WorkerProcess, smollm2_folder: Path, loras_folder: Path
) -> None:
    load(process, quantized_folder(smollm2_folder, "awq"), AUTOAWQ)
    for wanted in (TOGETHER, WEIGHTED):
        apply_loras(process, loras_folder, wanted)
        assert learned(process) == {name for name, weight in wanted if weight >= 1}


# -- the package by itself, and its fused layers -----------------------------------------------------------------------


def probe(name: str, folder: Path, *before: Path) -> dict[str, Any]:
    """Run tests/support/`name`.py with the packages of `before` and of the overlay, and return its JSON."""
    assert AUTOAWQ.overlay is not None
    path = os.pathsep.join(map(str, [*before, AUTOAWQ.overlay.folder]))
    command = [sys.executable, "-m", f"tests.support.{name}", str(folder), str(folder.parent / "plain")]
    child = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=250
    )
    assert child.returncode == 0, child.stderr
    result: dict[str, Any] = json.loads(child.stdout)
    return result


def test_the_packages_own_layers_and_ours_agree_with_floats(shallow: Path) -> None:
    """It also fails once a correction of `autoawq.patches` is no longer needed."""
    result = probe("awq_package_probe", shallow)
    assert result["slow"] < SLOW
    assert result["ours"] < FLOAT16
    assert "intel_extension_for_pytorch" in result["no GPU"]
    assert "q_linear_module" in result["capitals"]
    assert "Cannot copy out of meta tensor" in result["missing"]
    assert result["elsewhere"] == ["meta"], (
        "packed weights are kept where their layer is placed, not where it is computed"
    )
    assert result["spread"] == result["slow"]
    assert result["fits"] == [], "which are not installed here"


def test_fused_layers_agree_with_floats_on_stand_ins_for_their_kernels(shallow: Path) -> None:
    result = probe("awq_fused_probe", shallow, ROOT / "tests" / "support" / "awq_stand_ins")
    assert max(result["logits"]) < 1.5, "of all tokens, not of the likely ones alone"
    assert result["unpatched"] > 10 * max(result["logits"]), "it sees each token twice"
    answers = result["answers"]
    assert answers["alone"] == answers["again"] == answers["guided from itself"] != answers["guided"]
    assert result["to the end"] == 25, "one more than the context, which nobody reads any more"


# -- what cannot be loaded ---------------------------------------------------------------------------------------------


def changed(source: Path, target: Path, change: Callable[[Tensors], object]) -> Path:
    linked_folder(source, target)
    weights = read_safetensors(source / "model.safetensors")
    change(weights)
    (target / "model.safetensors").unlink()
    write_safetensors(target / "model.safetensors", weights)
    return target


LOST = "model.layers.1.mlp.up_proj.qzeros"


def test_a_missing_tensor_is_named(process: WorkerProcess, shallow: Path, tmp_path: Path) -> None:
    path = changed(shallow, tmp_path / "lost", lambda weights: weights.pop(LOST))
    with pytest.raises(LoadFailed, match=LOST) as refused:
        load(process, path, AUTOAWQ)
    assert LOST in refused.value.cause["zh"]


def test_nan_scales_are_refused(process: WorkerProcess, shallow: Path, tmp_path: Path) -> None:
    def spoil(weights: Tensors) -> None:
        name = "model.layers.1.mlp.up_proj.scales"
        weights[name] = np.full_like(weights[name], np.nan)

    path = changed(shallow, tmp_path / "nan", spoil)
    with pytest.raises(LoadFailed, match="produces NaN"):
        load(process, path, AUTOAWQ)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"model_type": "gpt2"}, "does not support such models (gpt2)"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32}}, "scales|qzeros"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemv"}}, "needs a GPU"),
    ],
    ids=["kind", "group", "version"],
)
def test_an_unsupported_format_is_refused_by_name(
    process: WorkerProcess, shallow: Path, tmp_path: Path, config: dict[str, Any], word: str
) -> None:
    with pytest.raises(LoadFailed) as refused:
        load(process, linked_folder(shallow, tmp_path / "odd", **config), AUTOAWQ)
    assert any(each in refused.value.cause["en"] for each in word.split("|"))


def test_pickled_weights_load_and_max_seq_len_sets_the_context(
    awq: WorkerProcess, shallow: Path, tmp_path: Path
) -> None:
    expected = answer(awq, FRANCE, max_new_tokens=6).text
    path = linked_folder(shallow, tmp_path / "pickled")
    pickle_weights(shallow / "model.safetensors", path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    assert load(awq, path, AUTOAWQ, max_seq_len=10).context_length == 10
    reply = answer(awq, FRANCE, max_new_tokens=0)
    assert reply.text == expected
    assert reply.done.reason == "length"


def test_code_in_a_pickle_is_not_run(process: WorkerProcess, shallow: Path, tmp_path: Path) -> None:
    path = linked_folder(shallow, tmp_path / "program")
    (path / "model.safetensors").unlink()
    pickle_program(path / "pytorch_model.bin", tmp_path / "ran")
    with pytest.raises(LoadFailed, match="safetensors"):
        load(process, path, AUTOAWQ)
    assert not (tmp_path / "ran").exists()
