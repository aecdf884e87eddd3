"""Event handlers of the panel that connects to servers, called as any client can call them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.formats.server_file import ServerFile, read_server
from modules.formats.server_keys import read_keys
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.model.connect_panel import ConnectPanel
from modules.ui.model.tab import ModelTab
from tests.support.fake_server import FakeServer, Reply, Request
from tests.support.page_parts import AsCalled, followers, page_parts
from tests.ui.test_ui import last

gr = gradio()
MakePanel = Callable[..., Any]
KEY = "sk-secret"


@pytest.fixture
def make_panel(make_app: Callable[..., App]) -> MakePanel:
    def make(*arguments: str) -> Any:
        app = make_app(*arguments)
        with page_parts() as blocks:
            page = Page(app, "en")
            tab = ModelTab(page, followers())
            panel = ConnectPanel(page, tab)
        handlers: Any = AsCalled(blocks, panel)
        handlers.app, handlers.status = app, tab.card.status
        return handlers

    return make


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server with OpenAI's API, two models, one LoRA and a key."""

    def models(request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return Reply(401, json={"error": {"message": "Invalid API key."}})
        entries = [{"id": "org/large"}, {"id": "small"}, {"id": "lora", "parent": "small"}, {"id": 3}, "x"]
        return Reply(json={"object": "list", "data": entries})

    with FakeServer() as started:
        started.add("/v1/models", models)
        yield started


def examine(panel: Any, address: object, key: object = KEY) -> dict[Any, Any]:
    return last(panel.examine({panel.address: address, panel.key: key}))


def save(panel: Any, address: object, model: object = "org/large", name: object = "my", key: object = KEY) -> Any:
    values = {panel.address: address, panel.model: model, panel.name: name, panel.key: key}
    return panel.save_file(values)


def test_a_server_is_asked_what_it_is(make_panel: MakePanel, server: FakeServer) -> None:
    panel = make_panel()
    updates = examine(panel, f" {server.url.removeprefix('http://')}/v1/ ")
    assert "OpenAI API" in updates[panel.result]
    assert updates[panel.model] == gr.update(choices=["org/large", "small"], value="org/large")
    assert updates[panel.name] == "large"
    assert updates[panel.found] == gr.update(visible=True)


def test_every_failure_has_a_sentence(make_panel: MakePanel, server: FakeServer) -> None:
    panel = make_panel()
    assert "Invalid API key." in examine(panel, server.url, "sk-wrong")[panel.result]
    assert "Cannot connect" in examine(panel, "127.0.0.1:1")[panel.result]
    for address in ("", None, "ftp://h", "http://u:p@h", "a b"):
        assert "Server address: " in examine(panel, address)[panel.result]
    server.add("/v1/models", Reply(parts=[b"<html>"], headers={"Content-Type": "text/html"}))
    assert "was not understood" in examine(panel, server.url)[panel.result]
    server.add("/v1/models", Reply(json={"data": []}))
    updates = examine(panel, server.url)
    assert "it lists no models" in updates[panel.result]
    assert updates[panel.found] == gr.update(visible=False)
    server.add("/v1/models", Reply(302, headers={"Location": "http://elsewhere/"}))
    assert "elsewhere" in examine(panel, server.url)[panel.result]


def test_what_is_saved_is_a_model_and_the_key_is_kept_for_its_server(
    make_panel: MakePanel, server: FakeServer, tmp_path: Path
) -> None:
    panel, folder = make_panel(), tmp_path / "models"
    updates = save(panel, server.url)
    assert (updates[panel.name_saved], updates[panel.key]) == ("my.server.yaml", "")
    assert read_server(folder / "my.server.yaml") == ServerFile(server.url, "org/large")
    assert read_keys(folder) == {server.url: KEY}
    assert panel.app.record("my").format == "server"
    assert "Connected." in examine(panel, server.url, "")[panel.result], "with the key that was saved"
    assert KEY not in json.dumps([str(value) for value in updates.values()])


def test_what_is_wrong_is_not_saved(make_panel: MakePanel, tmp_path: Path) -> None:
    panel = make_panel()
    (tmp_path / "models" / "taken.server.yaml").write_text("url: http://other\n")
    for changed in (
        {"name": ""},
        {"name": "../a"},
        {"name": None},
        {"name": "taken"},
        {"model": "a\nb"},
        {"key": "a b"},
    ):
        updates = save(panel, "http://h", **changed)
        assert updates[panel.name_saved] == ""
        assert "alert" in updates[panel.saved]
    assert "Name in the list of models: " in save(panel, "http://h", name="../a")[panel.saved]
    assert "Server address: " in save(panel, "nowhere:x")[panel.saved]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["taken.server.yaml"]


def test_nothing_is_loaded_if_nothing_was_saved(make_panel: MakePanel) -> None:
    panel = make_panel()
    assert last(panel.load({panel.name_saved: ""})) == {panel.status: gr.skip()}


def test_only_the_owner_may_have_addresses_asked(make_panel: MakePanel, server: FakeServer, tmp_path: Path) -> None:
    for flags, words in ((("--multi-user",), "--multi-user"), (("--listen",), "without a password")):
        panel = make_panel(*flags)
        assert words in examine(panel, server.url)[panel.result]
        assert words in save(panel, server.url)[panel.saved]
        assert words in panel.open(None, "")[panel.result]
    assert server.requests == []
    assert list((tmp_path / "models").iterdir()) == []
    panel = make_panel("--listen", "--api-key", "k")
    assert "Connected." in examine(panel, server.url)[panel.result]


def test_the_address_of_the_server_that_is_picked_is_filled_in(make_panel: MakePanel, tmp_path: Path) -> None:
    panel = make_panel()
    (tmp_path / "models" / "a.server.yaml").write_text("url: http://h:8000\n")
    assert panel.open("a.server.yaml", "")[panel.address] == "http://h:8000"
    assert panel.open("a.server.yaml", "typed")[panel.address] == gr.skip()
    assert panel.open(None, "")[panel.address] == gr.skip()
    assert panel.propose_name("org/model: 7b.gguf", "h")[panel.name] == "model- 7b"
