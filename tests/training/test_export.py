"""Export of LoRAs: merged into a copy of the model, and as a GGUF adapter; what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from modules.catalog.catalog import Catalog
from modules.catalog.record import ModelRecord
from modules.core.errors import NameTaken, OptionError, Unsupported
from modules.core.lora_errors import LoraMismatch
from modules.core.training_errors import CannotTrain, TrainerDied, TrainingDiskFull, TrainingFailed
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from modules.lora.catalog import LoraCatalog, LoraRecord
from modules.training.export import gguf_adapter, merged_model
from tests.support.checkpoint_files import checkpoint, put, tensors
from tests.support.forked import forked
from tests.support.lora_files import LAYER, peft

OPTIONS = option_values(resolve(LOADERS["Transformers"], model={}, saved={}, flags={}, form={}))


@pytest.fixture
def lora(loras_folder: Path) -> LoraRecord:
    """A LoRA that was trained for the demo model."""
    return LoraCatalog(loras_folder).find("banana")


@pytest.fixture
def model(smollm2_folder: Path) -> ModelRecord:
    return next(record for record in Catalog(smollm2_folder.parent).models() if record.format == "safetensors")


@pytest.fixture
def small(tmp_path: Path) -> tuple[LoraRecord, ModelRecord]:
    """A LoRA and a model that it fits, of which nothing can be computed."""
    layer = "model.layers.0.self_attn."
    shapes = {layer + "q_proj.weight": (64, 64), layer + "v_proj.weight": (32, 64)}
    put(checkpoint(tmp_path / "models" / "base") / "model.safetensors", tensors(shapes))
    peft(tmp_path / "loras" / "a")
    return LoraCatalog(tmp_path / "loras").find("a"), Catalog(tmp_path / "models").find("base")


def test_a_disk_without_room_for_a_merged_model_is_refused_before_anything_is_written(
    tmp_path: Path, small: tuple[LoraRecord, ModelRecord], subtests: pytest.Subtests
) -> None:
    lora, model = small
    huge = dataclasses.replace(model, size=1 << 60)
    with subtests.test("room"), pytest.raises(TrainingDiskFull):
        merged_model(lora, huge, OPTIONS, tmp_path / "new", tmp_path / "work")
    assert not (tmp_path / "work").exists()
    (tmp_path / "file").touch()
    with subtests.test("no folder can be made"), pytest.raises(TrainingFailed, match="Not a directory"):
        merged_model(lora, model, OPTIONS, tmp_path / "new", tmp_path / "file" / "work")
    assert not (tmp_path / "new").exists()


def test_a_merge_that_fails_says_why_and_leaves_nothing(tmp_path: Path, small: tuple[LoraRecord, ModelRecord]) -> None:
    with pytest.raises(TrainingFailed, match="as told"):
        merged_model(*small, OPTIONS, tmp_path / "new", tmp_path / "work", program="tests.support.failing_trainer")
    assert {path.name for path in tmp_path.iterdir()} == {"models", "loras", "work"}
    assert not any((tmp_path / "work").iterdir())


def test_what_cannot_be_merged_is_refused(
    tmp_path: Path, lora: LoraRecord, model: ModelRecord, subtests: pytest.Subtests
) -> None:
    (tmp_path / "taken").mkdir()
    wide = {LAYER + "q_proj.lora_A.weight": (4, 1024), LAYER + "q_proj.lora_B.weight": (1024, 4)}
    peft(tmp_path / "loras" / "wide", wide)
    misfit = LoraCatalog(tmp_path / "loras").find("wide")
    quantized = dataclasses.replace(model, format="gptq")
    cases = [
        (lora, quantized, "new", CannotTrain),
        (lora, model, "taken", NameTaken),
        (lora, model, "..", OptionError),
        (misfit, model, "new", LoraMismatch),
    ]
    for adapter, base, name, error in cases:
        with subtests.test(error=error.__name__), pytest.raises(error):
            merged_model(adapter, base, OPTIONS, tmp_path / name, tmp_path / "work")
    assert not (tmp_path / "new").exists()


def test_a_merge_that_dies_leaves_nothing(tmp_path: Path, lora: LoraRecord, model: ModelRecord) -> None:
    with pytest.raises(TrainerDied):
        merged_model(lora, model, OPTIONS, tmp_path / "new", tmp_path, program="tests.support.no_such_module")
    assert list(tmp_path.iterdir()) == []


def test_a_gguf_adapter_needs_a_gguf_model(lora: LoraRecord, model: ModelRecord, smollm2: Path) -> None:
    with pytest.raises(Unsupported):
        gguf_adapter(lora, model)
    path = gguf_adapter(lora, Catalog(smollm2.parent).find(smollm2.name))
    assert path.suffix == ".gguf" and path.read_bytes()[:4] == b"GGUF"


@pytest.mark.usefixtures("backend")
def test_a_merged_model_answers_as_the_base_with_the_lora(tmp_path: Path, lora: LoraRecord, model: ModelRecord) -> None:

    target, shares = tmp_path / "merged", list[float]()
    merged_model(lora, model, OPTIONS, target, tmp_path / "work", shares.append)
    assert shares[-1] == 1 and not (tmp_path / "work" / ".merge-merged").exists()
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"
    assert (target / "tokenizer_config.json").is_file()
    difference, change = forked(largest_differences, model.path, lora.path, target)
    assert difference < 0.1 * change


def largest_differences(base: Path, adapter: Path, merged: Path) -> tuple[float, float]:
    """Return how far logits of the merged model are from those with the adapter, and these from the base's."""
    import peft as peft_package
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.arange(100, 130)[None]
    with torch.no_grad():
        first = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)(ids).logits
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        plain = model(ids).logits
        adapted = peft_package.PeftModel.from_pretrained(model, adapter)(ids).logits
    return float((first - adapted).abs().max()), float((adapted - plain).abs().max())
