"""The Model page for quantized folders: the loaders offered with their reasons, and the settings saved for each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.config.yaml_file import YamlFile
from modules.loaders.registry import LOADERS
from tests.support.exl2_folder import exl2_folder
from tests.support.exllamav2_worker import STANDIN
from tests.support.page_parts import model_tab
from tests.support.quantized_folders import quantized_folder


@dataclass(frozen=True)
class Case:
    """`option` is changed to `value`. `reason` is shown for the loader."""

    loader: str
    model: str
    option: str
    value: object
    reason: str


MADE_WITH = "the package it was made with"
CASES = [
    Case("Transformers", "GPTQ", "bf16", True, "reads it through gptqmodel"),
    Case("AutoGPTQ", "GPTQ", "disable_exllama", True, MADE_WITH),
    Case("AutoAWQ", "AWQ", "max_seq_len", 1024, MADE_WITH),
    Case("ExLlamav2_HF", "GPTQ", "max_seq_len", 1024, "with the samplers of transformers and CFG"),
    Case("ExLlamav2", "EXL2", "max_seq_len", 1024, "with its own sampler"),
]


@pytest.fixture
def models(tmp_path: Path, shallow_folder: Path, smollm2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models with one in each format; ExLlamaV2 finds the stand-in for its compiled extension."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name, source in (
        ("GPTQ", quantized_folder(shallow_folder, "gptq")),
        ("AWQ", quantized_folder(shallow_folder, "awq")),
        ("EXL2", exl2_folder(smollm2_folder)),
    ):
        (folder / name).symlink_to(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(STANDIN), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.syspath_prepend(str(STANDIN))
    return folder


def form(tab: Any, case: Case, **changes: object) -> dict[Any, object]:
    """Return the values of the form for the model and loader of `case`, with `changes` over the model's settings."""
    shown = tab.show(case.model)
    state = {key: value for key, value in shown.items() if key in (tab.options.baseline, tab.options.fitted_n_ctx)}
    values = {tab.widgets[key]: value for key, value in (shown[tab.options.baseline]["values"] | changes).items()}
    return {tab.model: case.model, tab.loader: case.loader, **state, **values}


def test_each_loader_is_offered_with_its_reason_and_its_settings_are_saved_and_shown_again(
    models: Path, make_app: Callable[..., App], subtests: pytest.Subtests
) -> None:
    tab = model_tab(make_app())
    for case in CASES:
        with subtests.test(case.loader):
            offered = [name for _, name in tab.show(case.model)[tab.loader]["choices"]]
            assert case.loader in offered and set(offered) <= set(LOADERS)
            changed = form(tab, case, **{case.option: case.value})
            assert case.reason in asyncio.run(tab.explain(changed))[tab.notes]
            assert tab.plan(changed).settings[case.option].source == "form"
            assert "Saved the settings" in tab.save_settings(changed)[tab.status]
            saved = YamlFile(models / "config-user.yaml").read()[case.model]
            assert (saved["loader"], saved[case.option]) == (case.loader, case.value)
            assert tab.show(case.model)[tab.loader]["value"] == case.loader
    restarted = model_tab(make_app())
    for case in {case.model: case for case in CASES}.values():  # the last one saved for each model
        with subtests.test(case.model):
            shown = restarted.show(case.model)
            assert shown[restarted.loader]["value"] == case.loader
            assert shown[restarted.widgets[case.option]] == case.value
            assert restarted.plan(form(restarted, case)).settings[case.option].source == "saved"
