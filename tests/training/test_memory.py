"""The estimate of a run's memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from modules.catalog.catalog import Catalog
from modules.engines.training.samples import Sample
from modules.formats.model_shape import ModelShape
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from modules.planning.memory_budget import MemoryBudget
from modules.training.memory import TrainingMemory, adapter_numbers, estimate, longest_row
from modules.training.parameters import parse_parameters

OPTIONS = option_values(resolve(LOADERS["Transformers"], model={}, saved={}, flags={}, form={}))


@pytest.fixture
def shape(smollm2_folder: Path) -> ModelShape:
    found = next(record for record in Catalog(smollm2_folder.parent).models() if record.path == smollm2_folder).shape
    assert found is not None
    return found


def estimated(shape: ModelShape, longest: int = 0, **parameters: Any) -> TrainingMemory:
    room = MemoryBudget()
    room.torch_gpus = lambda: ()
    found = estimate(shape, OPTIONS, parse_parameters({"lora_name": "a", **parameters}), room, longest)
    assert found is not None
    return found


def test_an_adapter_has_the_numbers_that_peft_writes(shape: ModelShape) -> None:
    """The file of an adapter of rank 32 on all linear layers has 39,075,840 bytes of float32."""
    assert adapter_numbers(shape, parse_parameters({"lora_rank": 32})) == 9_768_960
    some = parse_parameters({"lora_rank": 32, "all_linear": False, "q_proj_en": True})
    assert adapter_numbers(shape, some) == 30 * 32 * (576 + 576)


def test_the_estimate_is_near_what_was_measured(shape: ModelShape, subtests: pytest.Subtests) -> None:
    for tokens, micro, measured in ((128, 1, 1502), (256, 2, 2940), (256, 4, 4866)):
        with subtests.test(tokens=tokens, micro=micro):
            found = estimated(shape, batch_size=micro, micro_batch_size=micro, lora_rank=8, cutoff_len=tokens)
            assert 0.9 * measured < found.total / 1e6 < 1.1 * measured


def test_rows_shorter_than_the_cutoff_need_less(shape: ModelShape) -> None:
    assert estimated(shape, longest=64).batch * 8 == estimated(shape).batch
    assert estimated(shape, longest=64, packing=True).batch == estimated(shape, packing=True).batch
    rows = [Sample(1, (("a" * 100, True),)), Sample(2, (("词" * 40, True),))]
    assert longest_row(rows, 512) == 58 and longest_row(rows[1:], 512) == 48 and longest_row(rows, 32) == 32


def test_recomputed_activations_need_much_less(shape: ModelShape) -> None:
    large = dataclasses.replace(shape, vocab_size=1000)
    assert estimated(large, gradient_checkpointing="on").batch * 10 < estimated(large).batch
