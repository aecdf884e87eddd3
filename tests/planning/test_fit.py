"""Whether a model fits in memory, which remedies are offered, and how the context length is reduced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.catalog.catalog import Catalog
from modules.engines.hf import memory as hf_memory
from modules.engines.llamacpp import memory as llamacpp_memory
from modules.engines.llamacpp.memory import estimate, placed
from modules.engines.memory import MIN_CONTEXT, fits
from modules.formats.gguf_header import GgufHeader
from modules.formats.model_shape import TensorSizes
from modules.loaders.load_settings import Setting, settle, values
from modules.options.load import OPTIONS
from modules.options.option import Value
from modules.planning.fit import Device, fit, fitting_context
from modules.planning.load_request import LoadRequest
from modules.system.gpus import Gpu
from modules.ui import locales
from modules.ui.model import model_html
from tests.conftest import LLAMA, TRANSFORMERS
from tests.engines.hf.test_memory_unquantized import GIB, SMALL

MB = 1_000_000
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def header(models_folder: Path) -> GgufHeader:
    (record,) = Catalog(models_folder).models()
    assert record.header is not None
    return record.header


def options(**chosen: Value) -> dict[str, Value]:
    return values(settle(LLAMA, model={"n_ctx": 8192}, saved={}, flags={}, form=chosen))


def main(free: int) -> list[Device]:
    return [Device("", free)]


@pytest.mark.parametrize(
    ("free", "verdict"), [(0, "unknown"), (1000 * MB, "fits"), (340 * MB, "tight"), (300 * MB, "short"), (1, "short")]
)
def test_the_verdict_compares_needed_with_free_memory(header: GgufHeader, free: int, verdict: str) -> None:
    found = fit(llamacpp_memory, header, options(), main(free))
    assert [part.verdict for part in found.parts] == [verdict]
    assert found.short == (verdict == "short")


@pytest.mark.parametrize("free", [300 * MB, 240 * MB, 200 * MB, 170 * MB, 152 * MB])
def test_every_remedy_makes_the_model_fit(header: GgufHeader, free: int) -> None:
    found = fit(llamacpp_memory, header, options(), main(free))
    assert found.remedies
    for change in found.remedies:
        assert set(change) <= set(OPTIONS)
        assert estimate(header, options(**change)).total <= free
    assert {"cache_4bit": True} in fit(llamacpp_memory, header, options(), main(250 * MB)).remedies


CARD = "NVIDIA GeForce RTX 4060"


@pytest.mark.parametrize("card", [560 * MB, 700 * MB, 500 * MB])
def test_with_a_gpu_every_remedy_makes_the_model_fit_everywhere(header: GgufHeader, card: int) -> None:
    chosen = options(n_gpu_layers=-1)
    found = fit(llamacpp_memory, header, chosen, [Device("", 1000 * MB), Device(CARD, card)])
    main, gpu = found.parts
    assert (main.verdict, gpu.verdict, gpu.device.name) == ("fits", "short", CARD)
    fewer = [change["n_gpu_layers"] for change in found.remedies if "n_gpu_layers" in change]
    assert fewer and 0 <= int(fewer[0]) < 31
    for change in found.remedies:
        assert fits(placed(header, options(**{"n_gpu_layers": -1, **change}), [card]), [1000 * MB, card])


def test_more_layers_on_the_gpu_are_a_remedy_for_short_main_memory(header: GgufHeader) -> None:
    found = fit(llamacpp_memory, header, options(), [Device("", 150 * MB), Device(CARD, 8000 * MB)])
    assert {"n_gpu_layers": 31} in found.remedies


def test_no_remedy_is_offered_if_none_helps(header: GgufHeader) -> None:
    assert fit(llamacpp_memory, header, options(), main(90 * MB)).remedies == ()
    assert fit(llamacpp_memory, header, options(), main(1000 * MB)).remedies == ()


def test_a_context_length_that_was_not_set_becomes_the_largest_that_fits(header: GgufHeader) -> None:
    assert fitting_context(llamacpp_memory, header, options(), main(1000 * MB)) == 8192
    assert fitting_context(llamacpp_memory, header, options(), main(0)) == 8192
    reduced = fitting_context(llamacpp_memory, header, options(), main(200 * MB))
    assert MIN_CONTEXT <= reduced < 8192
    assert (
        estimate(header, options(n_ctx=reduced)).total <= 200 * MB < estimate(header, options(n_ctx=2 * reduced)).total
    )
    assert fitting_context(llamacpp_memory, header, options(), main(1)) == MIN_CONTEXT


@pytest.fixture
def app(smollm2: Path, tmp_path: Path, make_app: Callable[..., App]) -> App:
    """An application on a machine with 200 MB of free memory."""
    (tmp_path / "models" / NAME).symlink_to(smollm2)
    made = make_app()
    made.memory.available_memory = lambda: 200 * MB
    return made


def test_a_reduced_context_is_marked_and_not_saved(app: App) -> None:
    record = app.record(NAME)
    reduced = app.planner.plan(LoadRequest(record)).settings["n_ctx"]
    assert reduced.source == "memory" and MIN_CONTEXT <= int(reduced.value) < 8192
    assert app.planner.form_settings(record, {})["n_ctx"] == reduced
    app.planner.save(LoadRequest(record, "llama.cpp", {"threads": 2}))
    assert app.model_settings.get(NAME) == {"loader": "llama.cpp", "threads": 2}


def test_the_context_shown_in_the_form_is_loaded_though_free_memory_has_changed(app: App) -> None:
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
    )  # there is none
    app.memory.gpus = lambda: (Gpu(CARD, 8000 * MB, 8000 * MB),)
    assert app.planner.plan(LoadRequest(record, form={"n_gpu_layers": -1})).settings["n_ctx"].source == "model"
    assert app.planner.plan(LoadRequest(record)).settings["n_ctx"].source == "memory"


def test_memory_of_the_model_in_use_counts_as_free(app: App) -> None:
    assert app.memory.free_memory(LLAMA) == (Device("", 200 * MB),)
    app.loading.load(app.planner.plan(LoadRequest(app.record(NAME), form={"n_ctx": 2048})))
    freed = app.memory.free_memory(LLAMA)[0].free - 200 * MB
    assert 60 * MB < freed < 90 * MB  # its cache and buffers; the file's own pages are the system's


def test_the_memory_bar_offers_remedies_as_buttons(app: App) -> None:
    app.memory.available_memory = lambda: 250 * MB
    plan = app.planner.plan(LoadRequest(app.record(NAME), form={"n_ctx": 8192}))
    for language in ("zh", "en"):
        html = model_html.memory(app.memory.fit(plan), locales.translator(language))
        assert "tx-short" in html and "data-change" in html and "cache_4bit" in html
    assert model_html.memory(None, locales.translator("en")) == ""


def test_each_gpu_has_its_own_bar(app: App) -> None:
    app.memory.gpus = lambda: (Gpu("RTX <4090>", 24 << 30, 20 << 30), Gpu("RTX 3060", 12 << 30, 1 << 20))
    plan = app.planner.plan(LoadRequest(app.record(NAME), form={"n_gpu_layers": -1, "tensor_split": "1,1"}))
    html = model_html.memory(app.memory.fit(plan), locales.translator("en"))
    assert html.count('class="tx-bar"') == 3
    assert "Memory: needs about" in html and "RTX &lt;4090&gt;: needs about" in html and "20.0 GB free" in html
    assert html.count("tx-short") == 1 and "but only 1 MB free" in html
    html = model_html.memory(
        app.memory.fit(app.planner.plan(LoadRequest(app.record(NAME), form={"cpu": True}))), locales.translator("en")
    )
    assert html.count('class="tx-bar"') == 1  # what holds nothing is not shown


# -- Transformers ------------------------------------------------------------------------------------------------------

SEVEN = dataclasses.replace(SMALL, size=14 * GIB, sizes=TensorSizes(7 * GIB, 6 * GIB, 1 << 20, "BF16"))
"""Seven billion weights of 16 bits."""


def torch_options(**chosen: Value) -> dict[str, Value]:
    return values(settle(TRANSFORMERS, model={}, saved={}, flags={}, form=chosen))


@pytest.mark.parametrize(("free", "remedies"), [(50, 0), (31, 0), (27, 4), (10, 3), (8, 2), (5, 0)])
def test_fewer_bits_are_a_remedy_if_the_model_then_fits(free: int, remedies: int) -> None:
    found = fit(hf_memory, SEVEN, torch_options(), main(free * GIB))
    assert found.short == (free < 29) and len(found.remedies) == remedies
    assert found.parts[0].verdict == ("fits" if free == 50 else "tight" if free == 31 else "short")
    for change in found.remedies:
        assert fits(hf_memory.placed(SEVEN, torch_options(**change)), [free * GIB])


def test_fewer_bits_are_a_remedy_on_a_gpu() -> None:
    found = fit(hf_memory, SEVEN, torch_options(), [Device("", 64 * GIB), Device(CARD, 12 * GIB)])
    assert [part.verdict for part in found.parts] == ["fits", "short"]
    assert {"load_in_8bit": True} in found.remedies and {"bf16": True} not in found.remedies


def test_a_folder_of_weights_has_a_memory_bar_and_frees_what_it_took(
    smollm2: Path, smollm2_folder: Path, tmp_path: Path, make_app: Callable[..., App]
) -> None:
    (tmp_path / "models" / NAME).symlink_to(smollm2)
    (tmp_path / "models" / "folder").symlink_to(smollm2_folder)
    app = make_app()
    app.memory.available_memory = lambda: 700 * MB
    plan = app.planner.plan(LoadRequest(app.record("folder")))
    found = app.memory.fit(plan)
    assert (
        found is not None
        and found.short
        and app.memory.fit(app.planner.plan(LoadRequest(app.record(NAME)))) is not None
    )
    assert "tx-bar" in model_html.memory(found, locales.translator("en"))
    assert plan.record.shape is not None and plan.record.header is None
    app.memory.torch_gpus = lambda: (Gpu(CARD, 8000 * MB, 8000 * MB),)
    assert app.memory.fit(plan) is not None and len(app.memory.free_memory(plan.loader)) == 2
    assert app.memory.gpus() == ()
