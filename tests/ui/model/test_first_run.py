"""The card that leads to a first answer: what it offers, and what the browser may send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.app import App
from modules.core.errors import both
from modules.core.worker_errors import LoadFailed
from modules.planning.starter_models import STARTER_MODELS
from modules.runtime.model_manager import ModelManager
from modules.runtime.status import Status
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.model.first_run import FirstRun
from tests.support.checkpoint_files import put
from tests.support.downloading import until
from tests.support.gguf_files import gguf
from tests.support.hub_server import HubServer
from tests.support.page_parts import page_parts

gr = gradio()
GB = 10**9
SMALLEST = STARTER_MODELS[0]
MakeApp = Callable[..., App]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as started:
        started.add(SMALLEST.repo, {SMALLEST.file: bytes(3_000_000)})
        yield started


@pytest.fixture
def app(make_app: MakeApp, hub: HubServer) -> App:
    app = make_app()
    app.mirrors.choose(hub.url)
    app.memory.available_memory = lambda: 1_300_000_000
    return app


def card(app: App, offers_load: bool = True, language: str = "en") -> FirstRun:
    with page_parts():
        return FirstRun(Page(app, language), "tx-first", offers_load)


def test_without_a_model_those_that_fit_and_the_folder_are_shown(app: App, tmp_path: Path) -> None:
    html = card(app).html(None)
    assert "1.30 GB of memory free" in html and SMALLEST.title in html and "386 MB · Q8_0 · Apache-2.0" in html
    assert f'<code class="tx-first-path">{tmp_path / "models"}</code>' in html
    assert html.count('data-act="get"') == 1 and 'data-stage="empty"' in html
    app.memory.available_memory = lambda: 14 * GB
    html = card(app).html(None)
    assert html.count('data-act="get"') == 3 and html.count("tx-first-main") == 1
    assert html.index("Qwen3 8B") < html.index("Qwen3 4B") < html.index("Qwen3 1.7B")


def test_a_download_shows_its_progress_instead_of_the_button(app: App, hub: HubServer) -> None:
    hub.fault("resolve|cdn", rate=100_000)
    part = card(app)
    part.get(None, SimpleNamespace(_data={"file": SMALLEST.file}))
    until(lambda: app.downloads.snapshot()[0].total)
    html = part.html(None)
    assert 'role="progressbar"' in html and "/ 3.00 MB" in html and 'data-act="get"' not in html
    app.downloads.pause(app.downloads.snapshot()[0].id)
    until(lambda: app.downloads.snapshot()[0].state == "paused")
    assert ">Resume</button>" in part.html(None)
    app.downloads.cancel(app.downloads.snapshot()[0].id)
    until(lambda: app.downloads.snapshot()[0].state == "cancelled")
    html = part.html(None)
    assert 'data-act="get"' in html and ">Resume<" not in html and "tx-bar" not in html


def test_a_failed_download_says_why_and_can_be_tried_again(app: App, hub: HubServer) -> None:
    hub.repos.clear()
    part = card(app)
    part.get(None, SimpleNamespace(_data={"file": SMALLEST.file}))
    until(lambda: app.downloads.snapshot()[0].state == "failed")
    html = part.html(None)
    assert "was not found" in html and 'data-act="get"' in html


@pytest.mark.parametrize("data", [None, {}, {"file": 5}, {"file": "../x"}, {"file": "other.gguf"}])
def test_nothing_else_is_downloaded(app: App, data: object) -> None:
    part = card(app)
    assert part.get(None, SimpleNamespace(_data=data)) == {part.part: gr.skip()}
    assert app.downloads.snapshot() == ()


def test_the_model_picked_is_offered_to_be_loaded(app: App, tmp_path: Path) -> None:
    put(tmp_path / "models" / "a.gguf", gguf())
    put(tmp_path / "models" / "<b>.gguf", gguf())
    html = card(app).html("<b>.gguf")
    assert 'data-stage="load"' in html and "&lt;b&gt;.gguf" in html and "Q4_K_M · " in html
    assert "&lt;b&gt;.gguf" in card(app).html("gone.gguf"), "the first model, where the one picked is gone"
    assert card(app, offers_load=False).html("a.gguf") == ""


def test_a_model_that_cannot_be_loaded_says_why(app: App, tmp_path: Path) -> None:
    put(tmp_path / "models" / "half.gguf", gguf()[:20])
    html = card(app).html("half.gguf")
    assert 'data-act="load" disabled' in html and "half.gguf: the file ends within its header" in html


def test_a_failed_load_is_explained_until_a_model_is_in_use(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "models" / "a.gguf", gguf())
    error = LoadFailed("llama.cpp", "a.gguf", "", both("no such tensor"))
    monkeypatch.setattr(ModelManager, "status", Status("failed", name="a.gguf", error=error))
    assert "no such tensor" in card(app).html("a.gguf")
    for state in ("loading", "ready"):
        monkeypatch.setattr(ModelManager, "status", Status(state, name="a.gguf"))  # type: ignore[arg-type]
        assert card(app).html("a.gguf") == ""


def test_only_a_changed_card_is_sent(app: App) -> None:
    part = card(app)
    shown = part.html(None)
    assert part.update(None, shown) == {part.part: gr.skip()}
    assert part.update(None, "") == {part.part: shown}


def test_guests_are_told_to_ask_the_owner(make_app: MakeApp) -> None:
    html = card(make_app("--multi-user"), language="zh").html(None)
    assert "请联系服务器的管理者" in html and "<button" not in html
