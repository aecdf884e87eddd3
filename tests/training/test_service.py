"""Starting runs from parameters: the model, the data, the memory, and LoRAs that are continued."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from modules.app import App
from modules.core.errors import (
    LoaderUnavailable,
    ModelNotFound,
    ModelProblem,
    NameTaken,
    OptionError,
    UnknownOption,
    Unsupported,
    WebUIError,
)
from modules.core.lora_errors import LoraInexpressible, LoraMismatch, LoraNotFound
from modules.core.training_errors import AdapterExists, CannotTrain, NoRoomToTrain, TrainingDiskFull
from modules.engines.training.job import TrainingJob
from modules.engines.training.samples import read_samples
from modules.loaders.registry import LOADERS, Loader
from modules.training.dataset.errors import DatasetNotFound
from modules.training.memory import TrainingMemory
from modules.training.service import PlannedRun
from tests.support.checkpoint_files import CONFIG, checkpoint, put, tensors
from tests.support.gguf_files import gguf
from tests.support.lora_files import LAYER, adapter, peft
from tests.support.training_app import PARAMETERS, ROWS, training_app

SECONDS = 20
SHAPES = {"model.layers.0.self_attn.q_proj.weight": (64, 64), "model.layers.0.self_attn.v_proj.weight": (32, 64)}
"""Weights of a model that the LoRAs of `peft` fit."""


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path) -> App:
    return training_app(make_app, tmp_path)


def test_a_run_gets_the_rows_the_parameters_and_the_load_options_of_the_model(app: App, tmp_path: Path) -> None:
    name = app.training.start({**PARAMETERS, "eval_share": 0.3, "lora_rank": 16})
    view = app.training.runs.wait(name, SECONDS)
    assert (view.state, view.adapter) == ("finished", "a")
    job = TrainingJob.read(tmp_path / "runs" / name)
    assert job.base == tmp_path / "models" / "model" and job.parameters["lora_rank"] == 16
    assert job.options["load_in_4bit"] is False and job.validation is not None
    train, held_out = list(read_samples(job.train)), list(read_samples(job.validation))
    assert len(train) + len(held_out) == len(ROWS) and held_out
    assert train[0].segments[-1][1] and "A number" in train[0].segments[-1][0]


def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    app: App, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    (tmp_path / "models" / "file.gguf").write_bytes(gguf())
    (tmp_path / "loras" / "taken").mkdir(parents=True)
    cut = checkpoint(tmp_path / "models" / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    exl2 = {**CONFIG, "quantization_config": {"quant_method": "exl2", "bits": 4.0}}
    checkpoint(tmp_path / "models" / "exl2", config=exl2)
    embedding = checkpoint(tmp_path / "models" / "embedding", config={**CONFIG, "model_type": "qwen3"})
    (embedding / "modules.json").write_text("[]")
    cases: list[tuple[dict[str, Any], type[WebUIError], str]] = [
        ({"model": ""}, OptionError, "model"),
        ({"model": "nothing"}, ModelNotFound, "nothing"),
        ({"model": "file.gguf"}, CannotTrain, "original model"),
        ({"model": "cut"}, ModelProblem, "truncated"),
        ({"model": "exl2"}, CannotTrain, "this one is exl2"),
        ({"model": "embedding"}, CannotTrain, "does not generate text"),
        ({"lora_name": ""}, OptionError, "lora_name"),
        ({"lora_name": "../a"}, OptionError, "lora_name"),
        ({"lora_name": "a/b"}, OptionError, "lora_name"),
        ({"lora_name": "taken"}, AdapterExists, "taken"),
        ({"dataset": ""}, OptionError, "dataset"),
        ({"dataset": "none"}, DatasetNotFound, "none"),
        ({"lora_rank": 0}, OptionError, "lora_rank"),
        ({"lora_rang": 8}, UnknownOption, "lora_rank"),
        ({"early_stopping_patience": 5}, OptionError, "no rows for evaluation"),
        ({"lora_name": "x" * 300}, OptionError, "bytes"),
        ({"learning_rate": "fast"}, OptionError, "learning_rate"),
    ]
    for change, error, words in cases:
        with subtests.test(change=ascii(change)), pytest.raises(error, match=words):
            app.training.start({**PARAMETERS, **change})
    assert app.training.runs.snapshot() == [] and not (tmp_path / "runs").exists()


def test_a_lora_can_be_named_in_any_script(app: App, tmp_path: Path) -> None:
    name = app.training.start({**PARAMETERS, "lora_name": "诗词 кот 🐱"})
    assert app.training.runs.wait(name, SECONDS).adapter == "诗词 кот 🐱"
    assert (tmp_path / "loras" / "诗词 кот 🐱").is_dir()


def test_a_lora_that_is_to_be_continued_must_exist(app: App) -> None:
    with pytest.raises(LoraNotFound):
        app.training.start(PARAMETERS, continues="nothing")


def test_a_lora_of_another_model_is_not_continued(app: App, tmp_path: Path) -> None:
    layer = LAYER.replace(".0.", ".999.")
    peft(tmp_path / "loras" / "misfit", {layer + f"q_proj.lora_{side}.weight": (4, 4) for side in "AB"})
    with pytest.raises(LoraMismatch):
        app.training.start(PARAMETERS, continues="misfit")
    assert app.training.runs.snapshot() == []


def test_a_lora_that_is_no_peft_folder_or_damaged_is_not_continued(app: App, tmp_path: Path) -> None:
    adapter(tmp_path / "loras" / "file.gguf")
    weights = peft(tmp_path / "loras" / "cut") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    for name, error, words in (("file", Unsupported, "cannot be trained"), ("cut", ModelProblem, "truncated")):
        with pytest.raises(error, match=words):
            app.training.start(PARAMETERS, continues=name)
    assert app.training.runs.snapshot() == []


def test_a_loader_that_is_not_installed_trains_nothing(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(LOADERS["Transformers"], packages=("no_such_package",))
    monkeypatch.setitem(cast("dict[str, Loader]", LOADERS), "Transformers", absent)
    with pytest.raises(LoaderUnavailable, match="no_such_package"):
        app.training.plan(PARAMETERS)


def test_a_merged_model_does_not_replace_another(app: App, tmp_path: Path) -> None:
    peft(tmp_path / "loras" / "a")
    with pytest.raises(NameTaken):
        app.training.export_merged("a", "model", "model")
    with pytest.raises(LoraNotFound):
        app.training.export_merged("none", "model", "new")


def test_a_merged_model_gets_a_folder_among_the_models_alone(app: App, subtests: pytest.Subtests) -> None:
    for name in ("../new", "a/b", "/tmp/new", "..", "", "a\0b", "\ud800"):
        with subtests.test(name=ascii(name)), pytest.raises(OptionError, match="name"):
            app.training.export_merged("none", "model", name)


def test_what_cannot_be_trained_on_quantized_weights_is_refused(app: App, tmp_path: Path) -> None:
    planned = app.training.plan(PARAMETERS)
    from modules.engines.training.arguments import load_options

    with pytest.raises(Unsupported, match="already quantized"):
        load_options({**planned.parameters, "base_weights": "4-bit"}, planned.options, "gptq")
    with pytest.raises(Unsupported, match="DoRA cannot be trained"):
        load_options({**planned.parameters, "use_dora": True}, planned.options, "awq")


def test_a_lora_of_more_than_linear_layers_is_not_continued(
    app: App, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """The run would end with an error, or with a LoRA that is not applied."""
    put(tmp_path / "models" / "model" / "model.safetensors", tensors(SHAPES))
    more: dict[str, dict[str, object]] = {
        "modules_to_save": {"modules_to_save": ["norm"]},
        "bias": {"bias": "all"},
        "init_lora_weights": {"init_lora_weights": "pissa"},
    }
    for feature, config in more.items():
        peft(tmp_path / "loras" / feature, **config)
        with subtests.test(feature), pytest.raises(LoraInexpressible, match=feature):
            app.training.start(PARAMETERS, continues=feature)
    assert app.training.runs.snapshot() == []


def test_a_run_that_continues_a_lora_says_of_what_kind_that_is(app: App, tmp_path: Path) -> None:
    put(tmp_path / "models" / "model" / "model.safetensors", tensors(SHAPES))
    peft(tmp_path / "loras" / "kind", use_rslora=True, use_dora=True, r=4, lora_alpha=0.4)
    name = app.training.start({**PARAMETERS, "lora_rank": 16}, continues="kind")
    parameters = app.training.runs.wait(name, SECONDS).run.parameters
    kept = [parameters[key] for key in ("lora_rank", "lora_alpha", "use_rslora", "use_dora")]
    assert kept == [4, 1, True, True]


def test_models_that_leave_no_room_are_named(app: App) -> None:
    planned = app.training.plan(PARAMETERS)
    free = app.training._memory.available_memory()
    too_large = PlannedRun(planned.parameters, planned.record, planned.options, TrainingMemory(2 * free, 0, 0))
    with pytest.raises(NoRoomToTrain, match="micro batch of 1"):
        app.training.check_room(too_large)
    app.training.check_room(planned)
    heavy = PlannedRun(planned.parameters, planned.record, planned.options, TrainingMemory(0, 1 << 60, 0))
    with pytest.raises(TrainingDiskFull):
        app.training.check_room(heavy)
