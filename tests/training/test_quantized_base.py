"""A run of the real training process on GPTQ weights, with the packages of their overlay."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.catalog.record import ModelRecord
from modules.core.training_errors import NoGradient
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from modules.training.parameters import parse_parameters
from modules.training.runs import RunRequest, TrainingRuns
from tests.support import gptq_tiny
from tests.support.training_jobs import losses, samples


@pytest.mark.usefixtures("backend")
def test_a_kernel_that_gives_most_adapters_no_gradient_fails_the_run(tiny_folder: Path, tmp_path: Path) -> None:
    """It repacks its weights at the first answer; on most processors it is what gptqmodel would choose."""
    model = gptq_tiny.write(tmp_path / "model", tiny_folder, gptq_tiny.tensors(), bits=4)
    options = option_values(resolve(LOADERS["Transformers"], model={}, saved={}, flags={}, form={}))
    parameters = parse_parameters({"lora_name": "a", "lora_rank": 4, "base_weights": "bfloat16"})
    runs = TrainingRuns(tmp_path / "runs", tmp_path / "loras", "tests.support.answering_trainer")
    record = ModelRecord("answers kernel gptq_torch_aten", model, "gptq", 1)
    view = runs.wait(runs.start(RunRequest(record, options, parameters, samples(4))), 200)
    runs.close()
    assert view.state == "failed" and isinstance(view.error, NoGradient)
    assert (view.error.missing, view.error.count) == (10, 14)


@pytest.mark.usefixtures("backend")
def test_gptq_weights_are_trained_by_a_kernel_with_gradients_whatever_is_ticked(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """The check at the first update fails a run in which an adapter gets no gradient."""
    model = gptq_tiny.write(tmp_path / "model", tiny_folder, gptq_tiny.tensors(), bits=4)
    ticked = {"auto_devices": True, "disable_exllama": True}
    options = option_values(resolve(LOADERS["Transformers"], model={}, saved={}, flags={}, form=ticked))
    parameters = parse_parameters(
        {"lora_name": "a", "epochs": 2, "batch_size": 4, "learning_rate": 0.003, "lora_rank": 4, "lora_dropout": 0}
    )
    runs = TrainingRuns(tmp_path / "runs", tmp_path / "loras")
    record = ModelRecord("model", model, "gptq", 1)
    name = runs.start(RunRequest(record, options, parameters, samples(12), samples(4, 101)))
    view = runs.wait(name, 200)
    log = runs.log(name)
    runs.close()
    assert (view.state, view.error) == ("finished", None)
    assert (view.facts["kernel"], view.facts["dtype"]) == ("gptq_torch", "float32")
    evaluations = losses(log, "evaluation")
    assert view.best is not None and view.best[1] == min(evaluations.values()) < evaluations[1]
