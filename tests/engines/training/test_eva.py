"""Adapters that begin with the directions in which the activations of their data differ most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modules.engines.training.eva import MOST_BATCHES, group_rows
from modules.engines.training.job import RESULT, TrainingJob
from modules.engines.training.tokens import TokenRow
from tests.support import hf_tiny
from tests.support.forked import forked
from tests.support.training_jobs import losses, make_job, samples, train

pytestmark = pytest.mark.usefixtures("backend")
EVA: dict[str, Any] = {"init_lora_weights": "eva", "lora_dropout": 0, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def base(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of four layers with random weights."""
    return hf_tiny.tiny_models(tmp_path_factory.mktemp("base"), tiny_folder, ["llama"])["llama"]


def overlap(folder: Path) -> list[float]:
    """Return for each layer how much of its A is within the first directions of its inputs, from 0 to 1."""
    import torch

    from modules.engines.training import eva
    from modules.engines.training.base_model import BaseModel
    from modules.engines.training.samples import read_samples
    from modules.engines.training.tokens import Limits, OffsetTokenizer, tokenize

    job = TrainingJob.read(folder)
    base = BaseModel(job, lambda done: None)
    rows = tokenize(read_samples(job.train), OffsetTokenizer(base.tokenizer), Limits.of(job.parameters)).rows
    model = base.add_adapter(job)
    eva.initialize(model, rows, len(rows))
    layers = [layer for layer in model.modules() if hasattr(layer, "lora_A")]
    inputs: dict[Any, list[Any]] = {layer: [] for layer in layers}
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, arguments: inputs[layer].append(arguments[0][0]))
    with torch.no_grad():
        for row in rows:
            model(input_ids=torch.tensor([row.tokens]))
    shares = []
    for layer in layers:
        states, rank = torch.cat(inputs[layer]), layer.r["default"]
        _, _, directions = torch.linalg.svd(states - states.mean(0), full_matrices=False)
        weight = layer.lora_A["default"].weight.detach()
        shares.append(float((weight @ directions[:rank].T).norm() ** 2 / rank))
    return shares


def test_every_layer_begins_with_the_directions_of_its_inputs(base: Path, tmp_path: Path) -> None:
    shares = forked(overlap, make_job(tmp_path / "job", base, samples(10), **EVA))
    assert len(shares) == 28 and min(shares) > 0.98


@pytest.mark.parametrize("weights", ["auto", "4-bit"])
def test_a_run_of_few_short_rows_begins_and_goes_on_to_the_bit(base: Path, tmp_path: Path, weights: str) -> None:
    parameters = {**EVA, "base_weights": weights, "lora_rank": 32, "save_steps": 2, "epochs": 3}
    whole = losses(forked(train, make_job(tmp_path / "whole", base, samples(8), **parameters)))
    job = make_job(tmp_path / "broken", base, samples(8), **parameters)
    forked(train, job, crash_at=3)
    events = forked(train, job)
    assert events[-1]["event"] == "done", events[-1]
    assert losses(events)[6] == whole[6] < whole[1]
    config = json.loads((job / RESULT / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (32, {}, {})


def test_a_rank_above_the_directions_that_there_are_is_refused(base: Path, tmp_path: Path) -> None:
    for rank, rows in ((64, 10), (32, 1)):
        job = make_job(tmp_path / str(rank), base, samples(rows), **EVA, lora_rank=rank)
        end = forked(train, job)[-1]
        assert (end["event"], end["error"], end["facts"]["rank"]) == ("failed", "NoEvaStart", rank)
        assert 0 < end["facts"]["most"] < rank


def test_rows_are_read_in_groups_that_have_enough_tokens() -> None:
    rows = [TokenRow(number, [1] * 5, [True] * 5) for number in range(1, 8)]
    assert [len(group) for group in group_rows(rows, 2, 12)] == [3, 3]
    assert [len(group) for group in group_rows(rows, 2, 10)] == [2, 2, 2]
    assert group_rows(rows, 2, 36) == []
    assert len(group_rows(rows * 10, 1, 5)) == MOST_BATCHES
