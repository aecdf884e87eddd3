"""The download settings: the endpoints, and the hosts to which the access token is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.downloads.request import FileCriteria, select_files
from modules.hub.access_token import AccessToken
from modules.hub.errors import RepositoryNotFound
from modules.ui.downloads.settings import DownloadSettings
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from tests.support.downloading import noise, until
from tests.support.hub_server import HubServer
from tests.support.page_parts import AsCalled, page_parts

gr = gradio()
REPO = "user/private"


@pytest.fixture
def make_settings(make_app: Callable[..., App]) -> Callable[..., Any]:
    def make(*arguments: str) -> Any:
        app = make_app(*arguments)
        with page_parts() as blocks:
            component = DownloadSettings(Page(app, "en"))
            component.on_page_load(blocks.load)
        settings: Any = AsCalled(blocks, component)
        settings.app = app
        return settings

    return make


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(token="hf_right") as started:
        started.add(REPO, {"model.safetensors": noise(20_000)}, private=True)
        yield started


def test_an_endpoint_is_saved_and_an_invalid_one_refused(make_settings: Callable[..., Any], tmp_path: Path) -> None:
    settings = make_settings()
    updates = settings.set_endpoint("https://one.example, two.example")
    assert "https://two.example" in updates[settings.line]
    assert settings.show()[settings.endpoint] == "https://one.example, https://two.example"
    assert "one.example" in (tmp_path / "settings.yaml").read_text()
    assert "not a valid download site" in settings.set_endpoint("ftp://x")[settings.line]
    assert settings.app.mirrors.endpoints == ("https://one.example", "https://two.example")
    settings.set_endpoint("")
    assert settings.app.mirrors.endpoints[0] == "https://hf-mirror.com"


def test_an_unedited_endpoint_is_not_saved(make_settings: Callable[..., Any], tmp_path: Path) -> None:
    settings = make_settings()
    settings.set_endpoint(settings.show()[settings.endpoint])
    assert (tmp_path / "settings.yaml").read_text() == ""


def test_leaving_an_unedited_field_changes_nothing(make_settings: Callable[..., Any], tmp_path: Path) -> None:
    settings, file = make_settings(), tmp_path / "settings.yaml"
    shown = settings.show()
    settings.set_endpoint("newer.example")  # on another page
    settings.leave_endpoint(shown[settings.endpoint], shown[settings.shown_endpoint])
    assert settings.app.mirrors.endpoints == ("https://newer.example",) and "newer" in file.read_text()
    updates = settings.leave_endpoint("typed.example", shown[settings.shown_endpoint])
    assert updates[settings.shown_endpoint] == {"endpoint": "https://typed.example"} and "typed" in file.read_text()


@pytest.mark.parametrize("shown", [{}, None, 5, {"endpoint": ""}], ids=repr)
def test_an_invalid_setting_is_not_overwritten_by_an_unedited_field(
    make_settings: Callable[..., Any], tmp_path: Path, shown: object
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("hf_endpoint: ftp://x\n")
    settings = make_settings("--settings", str(file))
    assert settings.endpoint not in settings.show()
    settings.leave_endpoint("", shown)
    assert file.read_text() == "hf_endpoint: ftp://x\n"
    settings.set_endpoint("one.example")
    assert "one.example" in file.read_text()


def test_an_invalid_endpoint_of_the_environment_is_reported_and_can_be_replaced(
    make_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "ftp://x")
    settings = make_settings()
    assert "not a valid download site" in settings.show()[settings.line]
    assert "https://one.example" in settings.set_endpoint("one.example")[settings.line]
    assert settings.show()[settings.endpoint] == "https://one.example"


def test_the_token_stays_in_memory_and_is_sent_to_allowed_hosts_only(
    make_settings: Callable[..., Any], hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, host = make_settings("--hf-endpoint", hub.url), hub.url.removeprefix("http://")
    app: App = settings.app
    address = app.mirrors.parse_address(REPO)
    updates = settings.set_token(" hf_right ", ["huggingface.co"])
    assert updates[settings.token] == "" and "huggingface.co" in updates[settings.line]
    with pytest.raises(RepositoryNotFound):
        app.mirrors.repository(address)
    assert not any(request.authorization for request in hub.log)
    settings.set_hosts(["huggingface.co", host, "evil.example"])
    assert app.mirrors.token == AccessToken("hf_right", frozenset({"huggingface.co", host}))
    app.downloads.start(select_files(app.mirrors.repository(address), address, FileCriteria()).spec)
    until(lambda: app.downloads.snapshot()[0].state == "done")
    shown = [updates, settings.show(), settings.set_hosts([host])]
    assert "hf_right" not in f"{shown}{caplog.text}"
    leaks = [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_right" in path.read_bytes()]
    assert leaks == []


def test_a_token_is_no_longer_sent_to_a_removed_endpoint(make_settings: Callable[..., Any]) -> None:
    settings = make_settings()
    settings.set_endpoint("one.example")
    settings.set_token("hf_right", ["huggingface.co", "one.example"])
    settings.set_endpoint("two.example")
    assert settings.app.mirrors.token.hosts == {"huggingface.co"}
    assert settings.show()[settings.hosts]["choices"] == ["huggingface.co", "two.example"]
    assert "not sent" in settings.set_hosts([])[settings.line]
    settings.forget_token()
    assert settings.app.mirrors.token is None


def test_an_empty_field_keeps_the_token(make_settings: Callable[..., Any]) -> None:
    settings = make_settings()
    settings.set_token("hf_right", ["huggingface.co"])
    settings.set_token("", ["huggingface.co"])
    assert settings.app.mirrors.token.secret == "hf_right"


def test_an_invalid_token_is_refused_without_repeating_it(make_settings: Callable[..., Any]) -> None:
    settings = make_settings()
    message = settings.set_token("two words", ["huggingface.co"])[settings.line]
    assert "Invalid access token" in message and "two words" not in message


def test_the_token_of_the_environment_is_sent_to_hugging_face_only(
    make_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    assert make_settings().app.mirrors.token == AccessToken("hf_environment", frozenset({"huggingface.co"}))
    monkeypatch.setenv("HF_TOKEN", "no token")
    assert make_settings().app.mirrors.token is None, "an invalid token does not prevent the start"
