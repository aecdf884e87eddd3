"""AutoAWQ with the real package from its overlay, in a worker: its answers are those of the dequantized weights."""

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

from modules.core.paths import ROOT
from modules.core.worker_errors import LoadFailed
from modules.loaders.availability import unavailable
from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import TRANSFORMERS, load
from tests.engines.hf.test_lora import TOGETHER, WEIGHTED, apply_loras, fingerprint, learned
from tests.support.answers import answer, ask, assert_next_tokens_of_a_generation, forget
from tests.support.hf_folder import write_safetensors
from tests.support.linked_folder import linked_folder
from tests.support.log_likelihoods import evaluate
from tests.support.pickled_weights import pickle_program, pickle_weights
from tests.support.quantized_folders import plain, quantized_folder, read_safetensors
from tests.support.quantized_packing import Tensors
from tests.support.trained_loras import LESSONS
from tests.support.worker_pool import worker_with

AUTOAWQ = LOADERS["AutoAWQ"]
ABSENT = unavailable(AUTOAWQ)
pytestmark = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))

FRANCE = "The capital of France is"
PACKAGE_ERROR, OUR_ERROR = 0.02, 0.05
"""Rounding errors in the log probabilities of likely tokens: with autoawq's own layers on a CPU, and with ours."""


@pytest.fixture(scope="module")
def shallow(shallow_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo model's first layers in AWQ; "plain" beside it has them dequantized. Its parent is writable."""
    parent, folder = tmp_path_factory.mktemp("shallow"), quantized_folder(shallow_folder, "awq")
    linked_folder(plain(folder), parent / "plain")
    return linked_folder(folder, parent / "packed")


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


# -- answers -----------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_dequantized_weights(awq: WorkerProcess, floats: WorkerProcess) -> None:
    for prompt in (FRANCE, "1, 2, 3, 4, 5,"):
        check_same_answer(awq, floats, prompt, tokens=5)


def test_log_likelihoods_are_those_of_the_dequantized_weights(awq: WorkerProcess, floats: WorkerProcess) -> None:
    tokens = ask(awq, "encode", text=FRANCE * 30)
    ours, theirs = (np.array(evaluate(worker, tokens, 20).logprobs) for worker in (awq, floats))
    assert np.abs(ours - theirs).max() < 2 * OUR_ERROR  # also of unlikely tokens


def check_same_answer(awq: WorkerProcess, floats: WorkerProcess, prompt: str, tokens: int) -> None:
    """Compare log probabilities token by token, until two almost equally likely tokens make the texts diverge."""
    replies = [answer(worker, prompt, max_new_tokens=tokens, top_logprobs=5) for worker in (awq, floats)]
    for actual, expected in zip(*(reply.logprobs for reply in replies), strict=True):
        logprobs = {candidate.text: candidate.logprob for candidate in expected.top}
        assert expected.chosen.logprob - logprobs[actual.chosen.text] < OUR_ERROR
        assert actual.chosen.logprob == pytest.approx(logprobs[actual.chosen.text], abs=OUR_ERROR)
        if actual.chosen.text != expected.chosen.text:
            break


def test_the_candidates_for_the_next_token_are_those_of_a_generation(awq: WorkerProcess) -> None:
    assert_next_tokens_of_a_generation(awq, FRANCE)


def test_a_folder_of_transformers_5_answers_like_one_of_version_4(awq: WorkerProcess, shallow: Path) -> None:
    """The text is long, because the base of RoPE changes little between near tokens."""
    prompt = "The quick brown fox jumps over the lazy dog. " * 20
    written_by_5 = answer(awq, prompt, max_new_tokens=4, top_logprobs=5)
    copy = as_version_4(shallow, shallow.parent / "version 4")
    load(awq, copy, AUTOAWQ)
    assert answer(awq, prompt, max_new_tokens=4, top_logprobs=5).logprobs == written_by_5.logprobs
    load(awq, linked_folder(copy, shallow.parent / "other base", rope_theta=10000.0), AUTOAWQ)
    assert answer(awq, prompt, max_new_tokens=4, top_logprobs=5).logprobs != written_by_5.logprobs


def as_version_4(folder: Path, copy: Path) -> Path:
    """Make a copy with the keys of Transformers 4 and none of version 5."""
    linked_folder(folder, copy, ["config.json", "tokenizer_config.json"])
    config = json.loads((folder / "config.json").read_text())
    config |= {"torch_dtype": config.pop("dtype"), "rope_theta": config.pop("rope_parameters")["rope_theta"]}
    (copy / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    for key in ("backend", "is_local", "extra_special_tokens"):
        del tokenizer[key]
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return copy


def test_what_transformers_4_cannot_compute_is_refused_by_its_key(
    process: WorkerProcess, shallow: Path, tmp_path: Path
) -> None:
    proportional = {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e5}}
    for name, config, key in (
        ("rope", proportional, "rope_parameters.rope_type=proportional"),
        ("later key", {"query_key_scale": 3.5}, "query_key_scale=3.5"),
    ):
        with pytest.raises(LoadFailed) as refused:
            load(process, linked_folder(shallow, tmp_path / name, **config), AUTOAWQ)
        assert key in refused.value.cause["zh"]
        assert "Use the loader Transformers" in refused.value.cause["en"]


def test_a_second_turn_evaluates_only_the_new_tokens(awq: WorkerProcess) -> None:
    forget(awq)
    (paris,) = ask(awq, "encode", text=" Paris", add_special=False)
    first = answer(awq, FRANCE, max_new_tokens=4, logit_bias={str(paris): 100})
    assert first.text == " Paris" * 4, "this text is tokenized as the same four tokens again"
    second = answer(awq, f"{FRANCE}{first.text} and", max_new_tokens=1)
    assert second.done.cached_tokens >= first.done.prompt_tokens + 3


# -- LoRAs -------------------------------------------------------------------------------------------------------------


@pytest.mark.lora("one", "several", "weights", "hot", loader="AutoAWQ")
def test_loras_have_the_effect_they_have_on_the_dequantized_weights(
    awq: WorkerProcess, floats: WorkerProcess, shallow_loras: Path
) -> None:
    before = fingerprint(awq)
    for adapters in (TOGETHER, WEIGHTED):
        ours, theirs = (apply_loras(worker, shallow_loras, adapters) for worker in (awq, floats))
        assert ours == pytest.approx(theirs, rel=0.1)
        assert min(ours) > 1
        for lesson in LESSONS.values():
            check_same_answer(awq, floats, lesson.beginning, tokens=2)
    assert apply_loras(awq, shallow_loras) == []
    assert fingerprint(awq) == before


def test_loras_make_the_model_say_their_lessons(
    process: WorkerProcess, smollm2_folder: Path, loras_folder: Path
) -> None:
    load(process, quantized_folder(smollm2_folder, "awq"), AUTOAWQ)
    for adapters in (TOGETHER, WEIGHTED):
        apply_loras(process, loras_folder, adapters)
        assert learned(process) == {name for name, weight in adapters if weight >= 1}


# -- the package's own layers, and fused layers ------------------------------------------------------------------------


def probe(name: str, folder: Path, *paths: Path) -> dict[str, Any]:
    """Run tests/support/`name`.py with `paths` and the overlay on PYTHONPATH, and return its JSON output."""
    assert AUTOAWQ.overlay is not None
    pythonpath = os.pathsep.join(map(str, [*paths, AUTOAWQ.overlay.folder]))
    command = [sys.executable, "-m", f"tests.support.{name}", str(folder), str(folder.parent / "plain")]
    child = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": pythonpath}, capture_output=True, text=True, timeout=250
    )
    assert child.returncode == 0, child.stderr
    result: dict[str, Any] = json.loads(child.stdout)
    return result


def test_the_packages_own_layers_and_ours_agree_with_floats(shallow: Path) -> None:
    """This fails, too, once a patch of `autoawq.patches` is no longer needed."""
    result = probe("awq_package_probe", shallow)
    differences = result["differences"]
    assert differences["package"] < PACKAGE_ERROR
    assert differences["ours"] < OUR_ERROR
    assert "intel_extension_for_pytorch" in result["no GPU"]
    assert "q_linear_module" in result["upper case"]
    assert "Cannot copy out of meta tensor" in result["missing tensor"]
    assert result["devices of an offloaded layer"] == ["meta"], "packed weights stay on the device of their layer"
    assert differences["package with offload"] == differences["package"]
    assert result["usable packages"] == [], "none of the kernels is installed"


def test_fused_layers_with_stand_ins_for_their_kernels_agree_with_floats(shallow: Path) -> None:
    result = probe("awq_fused_probe", shallow, ROOT / "tests" / "support" / "awq_standin")
    assert max(result["differences"]) < 1.5, "over all tokens, including unlikely ones"
    assert result["unpatched difference"] > 10 * max(result["differences"]), (
        "without the patch each token is seen twice"
    )
    answers = result["answers"]
    assert answers["single"] == answers["repeated"] == answers["guided by the prompt itself"] != answers["guided"]
    assert result["tokens in a full context"] == 25, "the context, and a last token that is not evaluated"


# -- models that cannot be loaded --------------------------------------------------------------------------------------


def with_changed_weights(source: Path, target: Path, change: Callable[[Tensors], object]) -> Path:
    linked_folder(source, target)
    weights = read_safetensors(source / "model.safetensors")
    change(weights)
    (target / "model.safetensors").unlink()
    write_safetensors(target / "model.safetensors", weights)
    return target


MISSING_TENSOR = "model.layers.1.mlp.up_proj.qzeros"


def test_a_missing_tensor_is_named(process: WorkerProcess, shallow: Path, tmp_path: Path) -> None:
    path = with_changed_weights(shallow, tmp_path / "missing tensor", lambda weights: weights.pop(MISSING_TENSOR))
    with pytest.raises(LoadFailed, match=MISSING_TENSOR) as refused:
        load(process, path, AUTOAWQ)
    assert MISSING_TENSOR in refused.value.cause["zh"]


def test_nan_scales_are_refused(process: WorkerProcess, shallow: Path, tmp_path: Path) -> None:
    def insert_nan(weights: Tensors) -> None:
        name = "model.layers.1.mlp.up_proj.scales"
        weights[name] = np.full_like(weights[name], np.nan)

    path = with_changed_weights(shallow, tmp_path / "nan", insert_nan)
    with pytest.raises(LoadFailed, match="produces NaN"):
        load(process, path, AUTOAWQ)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"model_type": "gpt2"}, "does not support such models (gpt2)"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32}}, "scales|qzeros"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemv"}}, "needs a GPU"),
    ],
    ids=["architecture", "group size", "version"],
)
def test_an_unsupported_format_is_refused_by_name(
    process: WorkerProcess, shallow: Path, tmp_path: Path, config: dict[str, Any], word: str
) -> None:
    with pytest.raises(LoadFailed) as refused:
        load(process, linked_folder(shallow, tmp_path / "unsupported", **config), AUTOAWQ)
    assert any(alternative in refused.value.cause["en"] for alternative in word.split("|"))


def test_pickled_weights_load_and_max_seq_len_sets_the_context(
    awq: WorkerProcess, shallow: Path, tmp_path: Path
) -> None:
    expected = answer(awq, FRANCE, max_new_tokens=12).text
    path = linked_folder(shallow, tmp_path / "pickled")
    pickle_weights(shallow / "model.safetensors", path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    assert load(awq, path, AUTOAWQ, max_seq_len=16).context_length == 16
    reply = answer(awq, FRANCE, max_new_tokens=0)
    assert reply.text == expected
    assert reply.done.reason == "length"


def test_code_in_a_pickle_is_not_run(process: WorkerProcess, shallow: Path, tmp_path: Path) -> None:
    path = linked_folder(shallow, tmp_path / "pickled")
    (path / "model.safetensors").unlink()
    pickle_program(path / "pytorch_model.bin", tmp_path / "was run")
    with pytest.raises(LoadFailed, match="safetensors"):
        load(process, path, AUTOAWQ)
    assert not (tmp_path / "was run").exists()
