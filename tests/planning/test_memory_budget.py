"""The context length of plans is reduced to the free memory; the memory bars of the Model page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.core.rpc_errors import NodeInUse
from modules.engines.memory import MIN_CONTEXT
from modules.loaders.load_settings import Setting
from modules.options.load import OPTIONS
from modules.planning.fit import Device
from modules.planning.load_request import LoadRequest
from modules.runtime.node_memory import NodeMemory
from modules.system.gpus import Gpu
from modules.system.rpc_node import DeviceMemory, NodeFacts
from modules.ui import locales
from modules.ui.model import model_html
from tests.conftest import LLAMA
from tests.planning.test_fit import GPU_NAME, MB, NAME


@pytest.fixture
def app(smollm2: Path, tmp_path: Path, make_app: Callable[..., App]) -> App:
    """An application on a machine with 200 MB of free memory."""
    (tmp_path / "models" / NAME).symlink_to(smollm2)
    app = make_app()
    app.memory.available_memory = lambda: 200 * MB
    return app


def test_a_reduced_context_is_marked_and_not_saved(app: App) -> None:
    record = app.record(NAME)
    reduced = app.planner.plan(LoadRequest(record)).settings["n_ctx"]
    assert reduced.source == "memory" and MIN_CONTEXT <= int(reduced.value) < 8192
    assert app.planner.form_settings(record, {})["n_ctx"] == reduced
    app.planner.save(LoadRequest(record, "llama.cpp", {"threads": 2}))
    assert app.model_settings.get(NAME) == {"loader": "llama.cpp", "threads": 2}


def test_the_context_shown_in_the_form_is_loaded_although_free_memory_has_changed(app: App) -> None:
    assert app.planner.plan(LoadRequest(app.record(NAME), shown_context=1024)).settings["n_ctx"] == Setting(
        1024, "memory"
    )
    app.memory.available_memory = lambda: 4000 * MB
    assert app.planner.plan(LoadRequest(app.record(NAME))).settings["n_ctx"] == Setting(8192, "model")


def test_a_context_that_was_set_or_fits_on_a_gpu_is_not_reduced(app: App) -> None:
    record = app.record(NAME)
    assert app.planner.plan(LoadRequest(record, form={"n_ctx": 4096})).settings["n_ctx"].source != "memory"
    assert (
        app.planner.plan(LoadRequest(record, form={"n_gpu_layers": -1})).settings["n_ctx"].source == "memory"
    )  # this machine has no GPU yet
    app.memory.gpus = lambda: (Gpu(GPU_NAME, 8000 * MB, 8000 * MB),)
    assert app.planner.plan(LoadRequest(record, form={"n_gpu_layers": -1})).settings["n_ctx"].source == "model"
    assert app.planner.plan(LoadRequest(record)).settings["n_ctx"].source == "memory"


def test_every_request_gets_a_cache_of_its_own_only_if_many_are_wanted_and_memory_is_plentiful(app: App) -> None:
    record = app.record(NAME)

    def unified(megabytes: int, **form: object) -> Setting:
        app.memory.available_memory = lambda: megabytes * MB
        return app.planner.plan(LoadRequest(record, form={"n_ctx": 2048} | form)).settings["kv_unified"]

    # A cache of 2,048 tokens takes 47 MB: seven more of them take 330 MB, which is a quarter of 1.3 GB.
    assert unified(2000, parallel=8) == Setting("off", "automatic")
    assert unified(1000, parallel=8) == Setting("on", "automatic")
    assert unified(64000, parallel=4) == Setting("auto", "default")
    assert unified(64000, parallel=8, kv_unified="on") == Setting("on", "form")
    assert unified(300, parallel=8, kv_unified="off") == Setting("off", "form")
    assert app.planner.form_settings(record, {"parallel": 8})["kv_unified"] == Setting("auto", "default")


def test_memory_of_the_loaded_model_counts_as_free(app: App) -> None:
    assert app.memory.free_memory(LLAMA) == (Device("", 200 * MB),)
    app.loading.load(app.planner.plan(LoadRequest(app.record(NAME), form={"n_ctx": 2048})))
    freed = app.memory.free_memory(LLAMA)[0].free - 200 * MB
    assert 60 * MB < freed < 90 * MB  # its KV cache and buffers; the pages of the mapped file belong to the system


def test_the_memory_bar_offers_remedies_as_buttons(app: App) -> None:
    app.memory.available_memory = lambda: 250 * MB
    plan = app.planner.plan(LoadRequest(app.record(NAME), form={"n_ctx": 8192}))
    for language in ("zh", "en"):
        html = model_html.memory(app.memory.fit(plan), locales.translator(language), language)
        assert "tx-short" in html and "data-change" in html
        assert f">{OPTIONS['cache_4bit'].label[language]}</button>" in html
    assert model_html.memory(None, locales.translator("en"), "en") == ""


def test_each_gpu_has_its_own_bar(app: App) -> None:
    app.memory.gpus = lambda: (Gpu("RTX <4090>", 24 << 30, 20 << 30), Gpu("RTX 3060", 12 << 30, 1 << 20))
    plan = app.planner.plan(LoadRequest(app.record(NAME), form={"n_gpu_layers": -1, "tensor_split": "1,1"}))
    html = model_html.memory(app.memory.fit(plan), locales.translator("en"), "en")
    assert html.count('class="tx-bar"') == 3
    assert "Memory: needs about" in html and "RTX &lt;4090&gt;: needs about" in html and "21.5 GB free" in html
    assert html.count("tx-short") == 1 and "but only 1.05 MB is free" in html
    plan = app.planner.plan(LoadRequest(app.record(NAME), form={"cpu": True}))
    html = model_html.memory(app.memory.fit(plan), locales.translator("en"), "en")
    assert html.count('class="tx-bar"') == 1  # devices that hold nothing are not shown


def test_a_transformers_folder_has_a_memory_bar_and_uses_the_gpus_of_pytorch(
    smollm2: Path, smollm2_folder: Path, tmp_path: Path, make_app: Callable[..., App]
) -> None:
    (tmp_path / "models" / NAME).symlink_to(smollm2)
    (tmp_path / "models" / "folder").symlink_to(smollm2_folder)
    app = make_app()
    app.memory.available_memory = lambda: 700 * MB
    plan = app.planner.plan(LoadRequest(app.record("folder")))
    fit = app.memory.fit(plan)
    assert fit is not None and fit.short and app.memory.fit(app.planner.plan(LoadRequest(app.record(NAME)))) is not None
    assert "tx-bar" in model_html.memory(fit, locales.translator("en"), "en")
    assert plan.record.shape is not None and plan.record.header is None
    app.memory.torch_gpus = lambda: (Gpu(GPU_NAME, 8000 * MB, 8000 * MB),)
    assert app.memory.fit(plan) is not None and len(app.memory.free_memory(plan.loader)) == 2
    assert app.memory.gpus() == ()


def test_other_machines_have_bars_of_their_own_before_the_cards(app: App) -> None:
    answers = {"a:1": NodeFacts("7.0.0", (DeviceMemory(MB, MB), DeviceMemory(900 * MB, 999 * MB)))}
    app.memory.node_memory = NodeMemory(lambda nodes: {node: answers.get(node, NodeInUse(node)) for node in nodes})
    app.memory.gpus = lambda: (Gpu(GPU_NAME, 8000 * MB, 8000 * MB),)
    form = {"n_gpu_layers": -1, "rpc": "a:1, b:1", "tensor_split": "0,1,1,1"}
    fit = app.memory.fit(app.planner.plan(LoadRequest(app.record(NAME), form=form)))
    assert fit is not None
    assert [part.device.name for part in fit.parts] == ["", "a:1 #1", "a:1 #2", "b:1", GPU_NAME]
    assert [bool(part.need.weights) for part in fit.parts] == [True, False, True, True, True]
    assert [part.verdict for part in fit.parts[2:]] == ["fits", "unknown", "fits"], "b:1 does not tell its memory"
    assert "b:1" in model_html.memory(fit, locales.translator("zh"), "zh")
