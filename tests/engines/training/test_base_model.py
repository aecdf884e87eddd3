"""The check that gradients reach all of an adapter, and that its file holds what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.core.training_errors import NoGradient, TrainingFailed
from tests.support.forked import forked

pytestmark = pytest.mark.usefixtures("backend")


def small_model(dora: bool = False) -> Any:
    """Return two linear layers with an adapter each, after a backward pass."""
    import peft
    import torch

    torch.manual_seed(1)
    layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    model: Any = peft.get_peft_model(layers, peft.LoraConfig(r=2, target_modules=["0", "2"], use_dora=dora))
    model(torch.ones(1, 4)).sum().backward()
    return model


def broken(kind: str) -> str:
    """Return the message of the check after one gradient was damaged."""
    from modules.engines.training.base_model import check_gradients, trained_tensors

    model = small_model()
    weight = next(weight for name, weight in trained_tensors(model).items() if ".2.lora_B" in name)
    if kind == "missing":
        weight.grad = None
    elif kind == "zero":
        weight.grad.zero_()
    elif kind == "nan":
        weight.grad[0, 0] = float("nan")
    try:
        check_gradients(model)
    except NoGradient as error:
        return str(error)
    return ""


def test_adapters_without_a_gradient_are_named(subtests: pytest.Subtests) -> None:
    for kind in ("missing", "zero", "nan"):
        with subtests.test(kind=kind):
            assert forked(broken, kind).startswith("1 of 2 adapters got no gradient")
    assert forked(broken, "") == ""


def check_stored(folder: Path, change: bool, dora: bool = False) -> str:
    from modules.engines.training.base_model import check_file, trained_tensors
    from modules.engines.training.lora_trainer import save_adapter

    model = small_model(dora)
    save_adapter(model, folder)
    if change:
        next(iter(trained_tensors(model).values())).data += 1
    try:
        check_file(model, folder)
    except TrainingFailed as error:
        return str(error)
    return ""


def test_a_file_with_another_content_is_noticed(tmp_path: Path) -> None:
    assert forked(check_stored, tmp_path / "same", False) == ""
    assert forked(check_stored, tmp_path / "dora", False, True) == ""
    assert "another content" in forked(check_stored, tmp_path / "changed", True)
