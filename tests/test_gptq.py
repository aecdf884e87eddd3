"""GPTQ and AWQ folders under Transformers: with gptqmodel they answer as their weights dequantised do."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.errors import LoaderUnavailable
from modules.events import TokenChances
from modules.loaders import unavailable
from modules.process import WorkerProcess
from tests.answers import answer
from tests.conftest import TRANSFORMERS, load
from tests.quantised_folders import plain, quantised_folder

METHODS = ("gptq", "awq")
PROMPTS = ["The capital of France is", "Once upon a time, in a small village", "1, 2, 3, 4, 5,"]
INSTALLED = importlib.util.find_spec("gptqmodel") is not None
NEARLY = 0.3  # in the logarithm of a probability: what bfloat16 makes of 30 layers
INSTALL = "pip install --no-deps -r requirements-gptq.txt"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.skipif(INSTALLED, reason="gptqmodel is installed")
def test_without_gptqmodel_the_loader_says_what_installs_it(
    smollm2_folder: Path, tmp_path: Path, make_app: Callable[..., App], method: str
) -> None:
    (tmp_path / "models" / "packed").symlink_to(quantised_folder(smollm2_folder, method))
    app = make_app()
    record = app.record("packed")
    assert record.format == method
    assert unavailable(TRANSFORMERS) is None
    best = unavailable(app.plan(record).loader, method)
    assert best is None or best.install, "rather one that can be installed than one that there is not yet"
    plan = app.plan(record, "Transformers")
    assert INSTALL in app.explain(plan)["unavailable"]["en"]
    with pytest.raises(LoaderUnavailable, match="gptqmodel") as refused:
        app.load(plan)
    assert refused.value.install == INSTALL


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason=f"gptqmodel is not installed: {INSTALL}")
@pytest.mark.parametrize("method", METHODS)
def test_a_packed_folder_answers_as_the_same_weights_in_floats(smollm2_folder: Path, method: str) -> None:
    """In bfloat16 against float32: where the texts part, the two tokens were as good as equal. The first load compiles
    a kernel, which takes minutes."""
    folder = quantised_folder(smollm2_folder, method)
    packed, packed_memory = chances(folder)
    floats, floats_memory = chances(plain(folder))
    assert packed_memory < floats_memory
    for prompt in PROMPTS:
        agreed = 0
        for mine, theirs in zip(packed[prompt], floats[prompt], strict=False):
            if mine.chosen.text != theirs.chosen.text:
                level = {each.text: each.logprob for each in theirs.top}
                assert theirs.chosen.logprob - level[mine.chosen.text] < NEARLY, (prompt, agreed, mine, theirs)
                break
            assert mine.chosen.logprob == pytest.approx(theirs.chosen.logprob, abs=NEARLY)
            agreed += 1
    assert agreed == len(floats[PROMPTS[-1]]), "counting leaves no choice"


def chances(folder: Path) -> tuple[dict[str, list[TokenChances]], int]:
    """Those of 40 greedy tokens after each prompt, and the bytes that the model takes."""
    worker = WorkerProcess()
    try:
        memory = load(worker, folder, TRANSFORMERS).memory
        wishes = {"max_new_tokens": 40, "top_logprobs": 5}
        return {prompt: answer(worker, prompt, **wishes).chances for prompt in PROMPTS}, memory
    finally:
        worker.close()


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason=f"gptqmodel is not installed: {INSTALL}")
def test_where_gptqmodel_is_installed_the_loader_takes_such_folders() -> None:
    assert all(unavailable(TRANSFORMERS, method) is None for method in METHODS)
