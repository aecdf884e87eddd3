"""The page's parts without a browser: its words, its pieces of HTML, its forms and what its handlers refuse."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.catalog.catalog import ModelRecord
from modules.config import flags
from modules.core.errors import (
    DamagedModel,
    IncompleteModel,
    LoadFailed,
    ModelProblem,
    OptionError,
    UnsupportedModel,
    both,
)
from modules.core.paths import ROOT
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.runtime.status import Status
from modules.ui import gradio_patches, locales
from modules.ui.gradio_import import gradio
from modules.ui.widgets import html as markup
from tests.support.page_parts import page_parts

gr = gradio()


# -- words ------------------------------------------------------------------------------------------------------------


def test_every_sentence_exists_in_both_languages_with_the_same_blanks() -> None:
    assert locales.both_complete()


def test_a_key_without_words_is_an_error() -> None:
    with pytest.raises(KeyError):
        locales.translator("zh")("no such key")


# -- html -------------------------------------------------------------------------------------------------------------

HOSTILE = '<img src=x onerror="alert(1)">.gguf'


def test_names_from_outside_are_escaped_everywhere() -> None:
    tr = locales.translator("en")
    record = ModelRecord(
        HOSTILE, Path(HOSTILE), "gguf", 1, architecture=HOSTILE, quantisation=HOSTILE, duplicate_of=HOSTILE
    )
    pieces = [
        markup.pill(Status("ready", name=HOSTILE, loader=HOSTILE), tr),
        markup.pill(Status("loading", name=HOSTILE), tr),
        markup.model_status(Status("failed", error=LoadFailed("l", HOSTILE, HOSTILE)), tr, "en"),
        markup.facts(record, tr),
        markup.explanation({"notes": [{"option": HOSTILE, "text": both(HOSTILE)}], "calls": {HOSTILE: 1}}, "en", tr),
        markup.info(HOSTILE),
    ]
    assert all("<img" not in piece for piece in pieces)


@pytest.mark.parametrize(("count", "words"), [(98_362_432, "94 MB"), (3 * 2**30, "3.0 GB"), (0, "0 MB")])
def test_sizes_are_for_people(count: int, words: str) -> None:
    assert markup.size(count) == words


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("kind", [IncompleteModel, DamagedModel, UnsupportedModel])
def test_a_model_that_will_not_load_says_so_among_its_facts(kind: type[ModelProblem], language: str) -> None:
    tr = locales.translator(language)
    record = ModelRecord("x", Path("x"), "gguf", 0, problem=kind("x", both("broken")), duplicate_of="y.gguf")
    facts = markup.facts(record, tr)
    assert f"<span>{tr(f'state_{kind.state}')}</span>" in facts
    assert "y.gguf" in facts and "0 MB" not in facts


def test_a_long_error_is_folded_after_its_first_line() -> None:
    error = LoadFailed("llama.cpp", "x.gguf", "second\nthird", both("first"))
    html = markup.alert(error, "en", locales.translator("en"))
    assert html.index("first") < html.index("<details>") < html.index("second")


# -- handlers: every one of them is a public endpoint, whatever Gradio's visibility says -------------------------------


@pytest.fixture(scope="module")
def tab(models_folder: Path) -> Iterator[Any]:
    from modules.ui.handlers import Shared
    from modules.ui.model.tab import ModelTab

    app = App(flags.read(["--model-dir", str(models_folder)]))
    with page_parts():
        tab = ModelTab(app, "en", Shared(gr.HTML(), gr.State(-1), gr.Chatbot(), gr.Number()))
    yield tab
    app.models.unload()


def form(tab: Any, model: object, loader: object = "llama.cpp", **changed: object) -> dict[Any, object]:
    """What the browser would send: the model's own settings, with `changed` typed over them."""
    picked = isinstance(model, str) and model.endswith("gguf")
    shown = tab.choose(model)[tab.options.shown] if picked else {"model": model, "values": {}}
    values = {tab.widgets[key]: value for key, value in (shown["values"] | changed).items()}
    return {tab.model: model, tab.loader: loader, tab.options.shown: shown, **values}


def last(updates: Any) -> dict[Any, Any]:
    async def drain() -> dict[Any, Any]:
        seen: dict[Any, Any] = {}
        async for update in updates:
            seen = update
        return seen

    return asyncio.run(drain())


MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_choosing_shows_what_the_files_say(tab: Any) -> None:
    updates = tab.choose(MODEL)
    assert "135M" in updates[tab.facts] and "Q4_1" in updates[tab.facts]
    assert updates[tab.widgets["n_ctx"]] == 8192
    assert updates[tab.loader]["value"] == "llama.cpp"
    names = [name for _, name in updates[tab.loader]["choices"]]
    assert names == ["llama.cpp", "llamacpp_HF"], "the loaders that can take it, the best first"
    assert updates[tab.widgets["n_gpu_layers"]] == gr.update(value=0, maximum=31)  # and the output


def test_only_touched_fields_count_as_the_forms(tab: Any) -> None:
    plan = tab._plan(form(tab, MODEL, n_ctx=4096))
    sources = {key: setting.source for key, setting in plan.settings.items()}
    assert sources["n_ctx"] == "form"
    assert [key for key, source in sources.items() if source == "form"] == ["n_ctx"]
    assert tab._plan(form(tab, MODEL)).settings["n_ctx"].source == "model"


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
    for model, loader, changed, words in INVALID:
        with subtests.test(model=model, loader=loader, changed=changed):
            html = last(tab.start(form(tab, model, loader, **changed)))[tab.status]
            assert 'role="alert"' in html and words in html


def test_a_loader_whose_packages_are_missing_is_refused(tab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    without = dataclasses.replace(LOADERS["llamacpp_HF"], packages=("no_such_package",))
    monkeypatch.setitem(LOADERS, "llamacpp_HF", without)  # type: ignore[arg-type]
    html = last(tab.start(form(tab, MODEL, "llamacpp_HF")))[tab.status]
    assert 'role="alert"' in html and "not available" in html


def test_a_load_shows_how_it_went_and_unload_what_it_returned(tab: Any) -> None:
    updates = last(tab.start(form(tab, MODEL, n_ctx=512)))
    assert "context 512" in updates[tab.status]
    asyncio.run(tab.stop())
    assert "returned" in tab.look(seen=0)[tab.status]


def test_every_option_has_a_widget_that_reads_back_what_it_shows() -> None:
    from modules.ui.widgets.option_form import Form

    with page_parts():
        made = Form(list(OPTIONS.values()), "zh", "t")
    defaults = {key: option.default for key, option in OPTIONS.items()}
    assert made.read(made.write(defaults)) == defaults
    with pytest.raises(OptionError):
        made.read({made.widgets["n_ctx"]: "many"})


def test_an_unknown_fault_is_logged_and_told_without_its_details(caplog: pytest.LogCaptureFixture) -> None:
    from modules.ui.handlers import as_error

    told = as_error(RuntimeError("a secret path"))
    assert "secret" not in told.say("en") and "webui.log" in told.say("zh")
    assert "a secret path" in caplog.text


# -- chat -------------------------------------------------------------------------------------------------------------


def test_a_conversation_is_read_back_in_whatever_shape_it_comes() -> None:
    from modules.ui.chat.tab import _plain

    strange = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": {"text": "c"}},
        {"role": "system", "content": None},
    ]
    assert _plain(strange) == [
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": ""},
    ]
    assert _plain(None) == []


# -- the import of Gradio ---------------------------------------------------------------------------------------------


def in_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_gradios_script_is_served_with_shorter_ways_to_its_components() -> None:
    """Fails when a new Gradio has another script: then `calm_search` has to change or to go."""
    server = FastAPI()
    gradio_patches.calm_search(server)
    (path,) = [path for route in server.routes if "core-" in (path := getattr(route, "path", ""))]
    served = TestClient(server).get(path.format(language="en"))
    assert served.headers["content-type"].startswith("text/javascript")
    original = (Path(gr.__file__).parent / "templates/frontend/assets" / path.rpartition("/")[2]).read_text("utf-8")
    restored = served.text
    for part, mended in gradio_patches._MENDED.items():
        assert restored.count(mended) == 1
        restored = restored.replace(mended, part)
    assert restored == original != served.text


def test_gradio_is_imported_whole_and_its_hook_is_back_in_place(whole_program: None) -> None:
    code = (
        "from modules.ui.gradio_import import gradio; gr = gradio()\n"
        "import gradio.component_meta as meta, inspect\n"
        "print(inspect.getsourcefile(meta.create_or_modify_pyi) == meta.__file__, gr.Button('x').value)"
    )
    assert in_python(code) == "True x"


def test_gradio_still_renders_its_stubs_at_every_import(whole_program: None) -> None:
    """When this fails, Gradio has stopped doing so and modules/ui/gradio_import.py has nothing left to save: remove
    it."""
    code = "import gradio.component_meta as meta; print(meta.create_or_modify_pyi.__code__.co_argcount)"
    assert in_python(code) == "3"


def test_the_built_page_has_brought_no_backend_into_the_process(whole_program: None) -> None:
    code = (
        "import server, sys\n"
        "from modules.config import flags\n"
        "from modules.app import App\n"
        "server.build(App(flags.read(['--api'])))\n"
        "print([name for name in ('torch', 'transformers', 'llama_cpp') if name in sys.modules])"
    )
    assert in_python(code) == "[]"
