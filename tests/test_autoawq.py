"""AutoAWQ with the real package from its overlay, in the real worker: it answers as its weights in floats do."""

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

from modules.errors import LoadFailed
from modules.loaders import LOADERS, unavailable
from modules.process import ROOT, WorkerProcess
from tests.answers import answer, forget
from tests.conftest import TRANSFORMERS, load
from tests.hf_folder import write_safetensors
from tests.pickled_weights import pickle_program, pickle_weights
from tests.quantised_folders import plain, quantised_folder, read_safetensors
from tests.quantised_packing import Tensors
from tests.test_hf_lora import TOGETHER, WEIGHTED, heard, put, state
from tests.worker_pool import WorkerPool, worker_with

AUTOAWQ = LOADERS["AutoAWQ"]
ABSENT = unavailable(AUTOAWQ)
pytestmark = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))

FRANCE = "The capital of France is"
LAYERS = 4
SHALLOW, FLOAT16 = 0.02, 0.15
"""What rounding makes of likely tokens, in the logarithms of their probabilities: of a few layers, and of all 30."""


@pytest.fixture(scope="module")
def folder(smollm2_folder: Path) -> Path:
    return quantised_folder(smollm2_folder, "awq")


@pytest.fixture(scope="module")
def shallow(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of it, and beside it the same dequantised: for what does not depend on words."""
    made = tmp_path_factory.mktemp("shallow")
    for source in (folder, plain(folder)):
        copy(source, made / source.name, num_hidden_layers=LAYERS)
    (made / folder.name).rename(made / "packed")
    return made / "packed"


def copy(source: Path, target: Path, **config: Any) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).symlink_to(file)
    said = json.loads((target / "config.json").read_text()) | config
    (target / "config.json").unlink()
    (target / "config.json").write_text(json.dumps(said))
    return target


@pytest.fixture(scope="module")
def awq(workers: WorkerPool, folder: Path, loras_folder: Path) -> Iterator[WorkerProcess]:
    assert AUTOAWQ.overlay is not None
    with workers.lease(folder, AUTOAWQ, worker_with(AUTOAWQ.overlay.folder)) as pooled:
        yield pooled.worker
        put(pooled.worker, loras_folder)


@pytest.fixture(scope="module")
def floats(workers: WorkerPool, folder: Path, loras_folder: Path) -> Iterator[WorkerProcess]:
    """The same weights, dequantised, in float32 under Transformers."""
    with workers.lease(plain(folder), TRANSFORMERS) as pooled:
        yield pooled.worker
        put(pooled.worker, loras_folder)


@pytest.fixture(scope="module")
def broken(shallow: Path) -> Iterator[WorkerProcess]:
    """A worker for loads that fail, or are soon replaced by others."""
    assert AUTOAWQ.overlay is not None
    with closing(WorkerProcess(AUTOAWQ.overlay.folder)) as process:
        load(process, shallow, AUTOAWQ)
        yield process


# -- what it says ------------------------------------------------------------------------------------------------------


def test_it_answers_as_the_same_weights_in_floats(awq: WorkerProcess, floats: WorkerProcess) -> None:
    for prompt in (FRANCE, "1, 2, 3, 4, 5,"):
        told = [answer(each, prompt, max_new_tokens=5, top_logprobs=5) for each in (awq, floats)]
        for mine, theirs in zip(*(each.chances for each in told), strict=True):
            level = {each.text: each.logprob for each in theirs.top}
            assert theirs.chosen.logprob - level[mine.chosen.text] < FLOAT16
            assert mine.chosen.logprob == pytest.approx(level[mine.chosen.text], abs=FLOAT16)
            if mine.chosen.text != theirs.chosen.text:
                break  # the two were as good as equal


def test_a_second_turn_reads_only_what_is_new(awq: WorkerProcess) -> None:
    forget(awq)
    first = answer(awq, FRANCE, max_new_tokens=4)
    second = answer(awq, f"{FRANCE}{first.text} and", max_new_tokens=1)
    assert second.done.cached_tokens >= first.done.prompt_tokens + 3


# -- LoRAs -------------------------------------------------------------------------------------------------------------


@pytest.mark.lora("one", "several", "weights", "hot", loader="AutoAWQ")
def test_loras_change_it_as_they_change_the_same_weights_in_floats(
    awq: WorkerProcess, floats: WorkerProcess, loras_folder: Path
) -> None:
    before = state(awq)
    for wanted in (TOGETHER, WEIGHTED):
        ours, theirs = (put(each, loras_folder, wanted) for each in (awq, floats))
        assert ours == pytest.approx(theirs, rel=0.1)
        assert min(ours) > 1
        assert heard(awq) == heard(floats) == {name for name, weight in wanted if weight >= 1}
    assert put(awq, loras_folder) == []
    assert state(awq) == before, "to the last digit"


# -- the package by itself, and its fused layers -----------------------------------------------------------------------


def probe(name: str, folder: Path, *before: Path) -> dict[str, Any]:
    """What tests/`name`.py tells, with the packages of `before` and of the overlay."""
    assert AUTOAWQ.overlay is not None
    path = os.pathsep.join(map(str, [*before, AUTOAWQ.overlay.folder]))
    command = [sys.executable, "-m", f"tests.{name}", str(folder), str(folder.parent / "plain")]
    told = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=250
    )
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def test_its_own_slow_way_and_ours_agree_with_floats(shallow: Path) -> None:
    """Tells also when what `autoawq_mended` sets right is so by itself."""
    found = probe("awq_package_probe", shallow)
    assert found["slow"] < SHALLOW
    assert found["ours"] < FLOAT16
    assert "intel_extension_for_pytorch" in found["no GPU"]
    assert "q_linear_module" in found["capitals"]
    assert "Cannot copy out of meta tensor" in found["missing"]
    assert found["elsewhere"] == ["meta"], (
        "packed weights are kept where their layer is placed, not where it is computed"
    )
    assert found["spread"] == found["slow"]
    assert found["fits"] == [], "which are not installed here"


def test_fused_layers_answer_as_floats_do_on_stand_ins_for_their_kernels(shallow: Path) -> None:
    found = probe("awq_fused_probe", shallow, ROOT / "tests" / "awq_stand_ins")
    assert max(found["logits"]) < FLOAT16 * 10, "of all tokens, not of the likely ones alone"
    assert found["unmended"] > 10 * max(found["logits"]), "it sees each token twice"
    said = found["answers"]
    assert said["alone"] == said["again"] == said["guided from itself"] != said["guided"]
    assert found["to the end"] == 25, "one more than the context, which nobody reads any more"


# -- what cannot be loaded ---------------------------------------------------------------------------------------------


def changed(source: Path, target: Path, change: Callable[[Tensors], object]) -> Path:
    copy(source, target)
    weights = read_safetensors(source / "model.safetensors")
    change(weights)
    (target / "model.safetensors").unlink()
    write_safetensors(target / "model.safetensors", weights)
    return target


LOST = "model.layers.1.mlp.up_proj.qzeros"


def test_a_missing_tensor_is_named(broken: WorkerProcess, shallow: Path, tmp_path: Path) -> None:
    path = changed(shallow, tmp_path / "lost", lambda weights: weights.pop(LOST))
    with pytest.raises(LoadFailed, match=LOST) as refused:
        load(broken, path, AUTOAWQ)
    assert LOST in refused.value.cause["zh"]


def test_scales_that_are_no_numbers_are_refused(broken: WorkerProcess, shallow: Path, tmp_path: Path) -> None:
    def spoil(weights: Tensors) -> None:
        name = "model.layers.1.mlp.up_proj.scales"
        weights[name] = np.full_like(weights[name], np.nan)

    path = changed(shallow, tmp_path / "nan", spoil)
    with pytest.raises(LoadFailed, match="no numbers"):
        load(broken, path, AUTOAWQ)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"model_type": "gpt2"}, "does not know such models (gpt2)"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32}}, "scales|qzeros"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemv"}}, "needs a GPU"),
    ],
    ids=["kind", "group", "version"],
)
def test_what_does_not_fit_is_named(
    broken: WorkerProcess, shallow: Path, tmp_path: Path, config: dict[str, Any], word: str
) -> None:
    with pytest.raises(LoadFailed) as refused:
        load(broken, copy(shallow, tmp_path / "odd", **config), AUTOAWQ)
    assert any(each in refused.value.cause["en"] for each in word.split("|"))


def test_pickled_weights_do_as_well_and_the_context_is_what_was_wished(
    broken: WorkerProcess, shallow: Path, tmp_path: Path
) -> None:
    load(broken, shallow, AUTOAWQ)
    expected = answer(broken, FRANCE, max_new_tokens=6).text
    path = copy(shallow, tmp_path / "pickled")
    pickle_weights(shallow / "model.safetensors", path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    assert load(broken, path, AUTOAWQ, max_seq_len=10).context_length == 10
    said = answer(broken, FRANCE, max_new_tokens=0)
    assert said.text == expected
    assert said.done.reason == "length"


def test_a_program_in_a_pickle_is_not_run(broken: WorkerProcess, shallow: Path, tmp_path: Path) -> None:
    path = copy(shallow, tmp_path / "program")
    (path / "model.safetensors").unlink()
    pickle_program(path / "pytorch_model.bin", tmp_path / "ran")
    with pytest.raises(LoadFailed, match="safetensors"):
        load(broken, path, AUTOAWQ)
    assert not (tmp_path / "ran").exists()
