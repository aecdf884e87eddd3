"""Event handlers of the Model page that load a model. Each is a public endpoint, even if Gradio hides it."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.config import flags
from modules.core.paths import ROOT
from modules.loaders.registry import LOADERS
from modules.ui.gradio_import import gradio
from tests.support.page_parts import model_tab

gr = gradio()


@pytest.fixture(scope="module")
def tab(models_folder: Path) -> Iterator[Any]:
    app = App(flags.parse(["--model-dir", str(models_folder)]))
    yield model_tab(app)
    app.models.unload()


def form(tab: Any, model: object, loader: object = "llama.cpp", **changes: object) -> dict[Any, object]:
    """Return what the browser would send: the settings of the model with `changes`."""
    is_valid = isinstance(model, str) and model.endswith("gguf")
    shown = tab.show(model)[tab.options.baseline] if is_valid else {"model": model, "values": {}}
    values = {tab.widgets[key]: value for key, value in (shown["values"] | changes).items()}
    return {tab.model: model, tab.loader: loader, tab.options.baseline: shown, **values}


def last(updates: Any) -> dict[Any, Any]:
    async def drain() -> dict[Any, Any]:
        latest: dict[Any, Any] = {}
        async for update in updates:
            latest = update
        return latest

    return asyncio.run(drain())


MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_selecting_a_model_shows_its_facts_and_settings(tab: Any) -> None:
    updates = tab.show(MODEL)
    assert "135M" in updates[tab.facts] and "Q4_1" in updates[tab.facts]
    assert updates[tab.widgets["n_ctx"]] == 8192
    assert updates[tab.loader]["value"] == "llama.cpp"
    names = [name for _, name in updates[tab.loader]["choices"]]
    assert names == ["llama.cpp", "llamacpp_HF"], "the compatible loaders, best first"
    assert updates[tab.widgets["n_gpu_layers"]] == gr.update(value=0, maximum=31)  # the layers and the output


def test_only_changed_fields_have_the_source_form(tab: Any) -> None:
    plan = tab.plan(form(tab, MODEL, n_ctx=4096))
    sources = {key: setting.source for key, setting in plan.settings.items()}
    assert sources["n_ctx"] == "form"
    assert [key for key, source in sources.items() if source == "form"] == ["n_ctx"]
    assert tab.plan(form(tab, MODEL)).settings["n_ctx"].source == "model"


INVALID: list[tuple[object, str, dict[str, object], str]] = [
    (None, "llama.cpp", {}, "Select a model"),
    (["a", "b"], "llama.cpp", {}, "Select a model"),
    ("../../etc/passwd", "llama.cpp", {}, "no model"),
    ("/etc/passwd", "llama.cpp", {}, "no model"),
    (MODEL, "no such loader", {}, "no loader"),
    (MODEL, "Transformers", {}, "cannot load gguf"),
    (MODEL, "llama.cpp", {"n_ctx": -1}, "n_ctx"),
    (MODEL, "llama.cpp", {"n_ctx": "a lot"}, "n_ctx"),
    (MODEL, "llama.cpp", {"tensor_split": "30,,70"}, "tensor_split"),
    (MODEL, "llama.cpp", {"mlock": "perhaps"}, "mlock"),
]


def test_an_invalid_request_is_refused(tab: Any, subtests: pytest.Subtests) -> None:
    for model, loader, changes, message in INVALID:
        with subtests.test(model=model, loader=loader, changes=changes):
            html = last(tab.start(form(tab, model, loader, **changes)))[tab.status]
            assert 'role="alert"' in html and message in html


def test_a_loader_whose_packages_are_missing_is_refused(tab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unavailable = dataclasses.replace(LOADERS["llamacpp_HF"], packages=("no_such_package",))
    monkeypatch.setitem(LOADERS, "llamacpp_HF", unavailable)  # type: ignore[arg-type]
    html = last(tab.start(form(tab, MODEL, "llamacpp_HF")))[tab.status]
    assert 'role="alert"' in html and "not available" in html


def test_load_and_unload_report_their_memory(tab: Any) -> None:
    updates = last(tab.start(form(tab, MODEL, n_ctx=512)))
    assert "context 512" in updates[tab.status]
    asyncio.run(tab.unload_model())
    assert "freed" in tab.refresh_view(0)[tab.status]


def in_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_building_the_page_imports_no_backend(whole_program: None) -> None:
    code = (
        "import server, sys\n"
        "from modules.config import flags\n"
        "from modules.app import App\n"
        "server.build(App(flags.parse(['--api'])))\n"
        "print([name for name in ('torch', 'transformers', 'llama_cpp') if name in sys.modules])"
    )
    assert in_python(code) == "[]"
