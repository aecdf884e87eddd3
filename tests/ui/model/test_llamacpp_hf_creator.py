"""Event handlers of the llamacpp_HF creator, called as any client can call them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.downloads.record import DownloadSpec
from modules.downloads.view import JobView
from modules.hub.errors import MirrorUnreachable
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.model.llamacpp_hf_creator import CreatorPanel
from modules.ui.model.tab import ModelTab
from tests.support.hub_server import HubServer
from tests.support.page_parts import AsCalled, followers, page_parts
from tests.ui.test_ui import last

gr = gradio()
REPO, NAME = "user/model", "model.gguf"
TOKENIZER = {"tokenizer_config.json": b"{}", "tokenizer.json": b"{}", "config.json": b"{}"}


def panel_of(app: App) -> Any:
    with page_parts() as blocks:
        page = Page(app, "en")
        tab = ModelTab(page, followers())
        panel = CreatorPanel(page, tab)
    handlers: Any = AsCalled(blocks, panel)
    handlers.model_tab = tab.card
    return handlers


@pytest.fixture
def make_panel(smollm2: Path, tmp_path: Path, make_app: Callable[..., App]) -> Callable[..., Any]:
    (tmp_path / "models" / NAME).symlink_to(smollm2)
    return lambda *arguments: panel_of(make_app(*arguments))


@pytest.fixture
def hub() -> Any:
    with HubServer() as started:
        started.add(REPO, TOKENIZER)
        yield started


def create(panel: Any, model: object = NAME, address: object = REPO) -> dict[Any, Any]:
    return last(panel.create({panel.model: model, panel.address: address}))


def test_the_menu_lists_models_that_can_be_moved(make_panel: Callable[..., Any], tmp_path: Path) -> None:
    panel = make_panel()
    (tmp_path / "models" / "damaged.gguf").write_bytes(b"GGUF")
    assert panel.open(None)[panel.model] == gr.update(choices=[NAME], value=None)
    assert panel.open(NAME)[panel.model]["value"] == NAME
    assert panel.open(["x"])[panel.model]["value"] is None


def test_the_model_is_moved_and_the_menu_has_its_new_name(make_panel: Callable[..., Any], hub: HubServer) -> None:
    panel = make_panel("--hf-endpoint", hub.url)
    updates = create(panel)
    assert "Created: model-HF/model.gguf" in updates[panel.result]
    assert updates[panel.model] == gr.update(choices=["model-HF/model.gguf"], value=None)
    tab = panel.model_tab
    updates = panel.follow_rename(NAME, updates[panel.renamed])
    assert updates[tab.model] == gr.update(choices=["model-HF/model.gguf"], value="model-HF/model.gguf")
    assert "model-HF/model.gguf" in updates[tab.facts]


def test_progress_is_shown_until_the_end(make_panel: Callable[..., Any], hub: HubServer) -> None:
    panel = make_panel("--hf-endpoint", hub.url)
    hub.fault("tree", delay=0.5)

    async def progress() -> list[str]:
        return [updates[panel.result] async for updates in panel.create({panel.model: NAME, panel.address: REPO})]

    messages = asyncio.run(progress())
    assert len(messages) > 2 and "Looking up" in messages[0] and "Created" in messages[-1]


@pytest.mark.parametrize("payload", [None, 5, ["a"], {}, {NAME: 5}, {NAME: "../x"}], ids=repr)
def test_the_menu_selects_an_existing_model_for_any_payload(make_panel: Callable[..., Any], payload: object) -> None:
    panel = make_panel()
    for name in (NAME, "gone.gguf", None, ["x"]):
        updates = panel.follow_rename(name, payload)
        assert updates[panel.model_tab.model].get("value", name) == NAME


@pytest.mark.parametrize("model", [None, "", 5, ["a"], "../x", "no such model"], ids=repr)
def test_an_invalid_model_is_refused(make_panel: Callable[..., Any], hub: HubServer, model: object) -> None:
    panel = make_panel("--hf-endpoint", hub.url)
    assert 'role="alert"' in create(panel, model)[panel.result]
    assert hub.log == []


@pytest.mark.parametrize("address", [None, "", 5, ["a"], "nonsense", "no/body"], ids=repr)
def test_an_invalid_address_is_reported_and_nothing_is_moved(
    make_panel: Callable[..., Any], hub: HubServer, tmp_path: Path, address: object
) -> None:
    panel = make_panel("--hf-endpoint", hub.url)
    assert 'role="alert"' in create(panel, address=address)[panel.result]
    assert (tmp_path / "models" / NAME).exists()


def test_multi_user_mode_refuses_guests(make_panel: Callable[..., Any], hub: HubServer) -> None:
    panel = make_panel("--multi-user", "--hf-endpoint", hub.url)
    assert "only its owner" in create(panel)[panel.result] and hub.log == []


def test_the_progress_says_how_much_there_is_and_why_nothing_arrives(make_app: Callable[..., App]) -> None:
    panel = panel_of(make_app())
    spec = DownloadSpec(REPO, "main", "model-HF")
    job = JobView("1", spec, "downloading", Path("/models"), done=1_000_000, total=4_000_000)
    waiting = MirrorUnreachable("hub.example", "no answer")
    assert (
        panel._progress(None) == panel._progress(dataclasses.replace(job, total=0)) == panel._page.tr("creator_asking")
    )
    assert panel._progress(dataclasses.replace(job, state="paused")) == panel._page.tr("creator_paused")
    assert "1.00 MB" in panel._progress(job) and "4.00 MB" in panel._progress(job)
    assert panel._progress(dataclasses.replace(job, waiting=waiting)) == f"{panel._progress(job)} {waiting.say('en')}"
