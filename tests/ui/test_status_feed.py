"""The digest that tells open pages to refresh: it changes exactly when what they show changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from modules.app import App
from modules.core.errors import LANGUAGES
from modules.downloads.record import DownloadSpec
from modules.setup.overlay_installer import Installation
from modules.ui import gr, status_feed
from modules.ui.gradio_patches import slow_queue_polling
from tests.support.hub_reading import REPO


def test_the_digest_stays_while_nothing_happens(make_app: Callable[..., App]) -> None:
    app = make_app()
    for language in LANGUAGES:
        assert status_feed.digest(app, language) == status_feed.digest(app, language) != ""


def test_a_change_of_the_model_changes_the_digest(make_app: Callable[..., App]) -> None:
    app = make_app()
    before = status_feed.digest(app, "en")
    app.models.unload()
    assert status_feed.digest(app, "en") != before


def test_a_step_of_the_preparation_changes_the_digest(
    make_app: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    digests = set()
    for done in (1, 2):
        state = Installation("installing", done, 9, phase="compiling")
        monkeypatch.setattr(app.overlays, "status", lambda overlay, state=state: state)
        digests.add(status_feed.digest(app, "en"))
    assert len(digests) == 2


def test_a_download_changes_the_digest_except_for_guests(make_app: Callable[..., App]) -> None:
    for arguments, visible in (("--multi-user",), False), ((), True):
        app = make_app("--hf-endpoint", "http://127.0.0.1:9", *arguments)
        before = status_feed.digest(app, "en")
        app.downloads.start(DownloadSpec(REPO, "main", f"visible-{visible}"))
        assert (status_feed.digest(app, "en") != before) == visible


def test_the_server_returns_an_uncached_digest(make_app: Callable[..., App]) -> None:
    app, server = make_app(), FastAPI()
    status_feed.add_route(server, app)
    with TestClient(server) as client:
        response = client.get("/status/zh")
        assert (response.text, response.headers["cache-control"]) == (status_feed.digest(app, "zh"), "no-store")
        assert client.get("/status/fr").text == status_feed.digest(app, LANGUAGES[0])


def test_gradio_still_polls_for_events_a_thousand_times_a_second() -> None:
    with gr.Blocks(analytics_enabled=False) as page:
        pass
    page.queue()
    assert page._queue.sleep_when_free == 0.001, "slow_queue_polling is no longer needed"
    slow_queue_polling(page)
    assert page._queue.sleep_when_free == 0.01
