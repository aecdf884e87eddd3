"""The LoRA of a run is applied to its base model, and both answer a question; the worker is a test engine."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from modules.app import App
from modules.core.errors import WebUIError
from modules.core.lora_errors import LoraNotFound
from modules.core.worker_errors import Unloaded
from modules.loaders import registry
from modules.training.page_errors import BaseNotLoaded
from modules.ui.training import adapters
from modules.ui.training.adapters import apply_adapter, compare
from tests.support.checkpoint_files import put, tensors
from tests.support.echo_plans import wait_until
from tests.support.lora_files import peft
from tests.support.training_app import add_run, training_app

LAYER = "model.layers.0.self_attn."
ANSWER = "<user>? {} !</s><assistant>"
"""What the engine makes of the question "? adapters !", with the names of the LoRAs that are applied."""


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """It has the LoRAs "a" and "b" for the model "model", and runs "a" and "none", of which "a" alone has a LoRA."""
    echo = dataclasses.replace(
        registry.LOADERS["Transformers"], engine="tests.support.echo", packages=(), extras=(), overlay=None
    )
    monkeypatch.setitem(cast("dict[str, registry.Loader]", registry.LOADERS), echo.name, echo)
    app = training_app(make_app, tmp_path)
    shapes = {LAYER + "q_proj.weight": (64, 64), LAYER + "v_proj.weight": (32, 64)}
    put(tmp_path / "models" / "model" / "model.safetensors", tensors(shapes))
    for name in ("a", "b"):
        peft(tmp_path / "loras" / name)
    add_run(app, "a", adapter="a")
    add_run(app, "none")
    return app


def load(app: App, **loras: float) -> None:
    """Load the base model by applying the LoRA of the run "a", and then these instead."""
    apply_adapter(app, "a")
    wait_until(lambda: app.models.status.state == "ready")
    app.loras.apply(loras)


def applied(app: App) -> dict[str, float]:
    return {lora.name: lora.weight for lora in app.models.status.loras}


def test_a_base_model_that_is_not_loaded_is_loaded_with_the_lora(app: App) -> None:
    apply_adapter(app, "a")
    wait_until(lambda: app.models.status.state == "ready")
    assert app.models.status.name == "model" and applied(app) == {"a": 1.0}


def test_the_lora_replaces_others_of_a_base_model_that_is_loaded(app: App) -> None:
    load(app, b=0.5)
    loaded = app.models.current
    apply_adapter(app, "a")
    assert applied(app) == {"a": 1.0} and app.models.current is loaded


def test_the_answers_of_both_are_compared_and_the_loras_of_before_are_applied_again(app: App) -> None:
    load(app, b=0.5)
    answers = compare(app, "a", "? adapters !")
    assert answers == {"base": ANSWER.format(""), "lora": ANSWER.format("a")}
    assert applied(app) == {"b": 0.5}


def test_after_a_failed_answer_the_loras_of_before_are_applied_again(app: App) -> None:
    load(app, b=0.5)
    with pytest.raises(WebUIError, match="the echo engine will not"):
        compare(app, "a", "? fail !")
    assert applied(app) == {"b": 0.5}


def test_a_model_that_takes_the_place_of_the_compared_one_keeps_its_loras(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path / "models" / "model", tmp_path / "models" / "other")
    add_run(app, "other", model="other", adapter="b")
    load(app, b=0.5)

    def load_another(*_: object) -> str:
        apply_adapter(app, "other")
        wait_until(lambda: app.models.status.state == "ready" and app.models.status.name == "other")
        return "answer"

    monkeypatch.setattr(adapters, "_answer", load_another)
    with pytest.raises(Unloaded):
        compare(app, "a", "?")
    assert app.models.status.name == "other" and applied(app) == {"b": 1.0}


def test_a_run_without_a_lora_or_with_another_base_model_is_not_compared(app: App) -> None:
    with pytest.raises(BaseNotLoaded):  # the page offers to load it
        compare(app, "a", "?")
    load(app)
    add_run(app, "other", model="other", adapter="a")
    add_run(app, "lost", adapter="deleted")
    for name, error in (("none", LoraNotFound), ("lost", LoraNotFound), ("other", BaseNotLoaded)):
        with pytest.raises(error):
            compare(app, name, "?")
    with pytest.raises(LoraNotFound, match="'none'"):
        apply_adapter(app, "none")
