"""The chat of somebody without a loaded model: the card offers one, or to load the one picked."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from modules.planning.starter_models import STARTER_MODELS
from tests.browser.conftest import Server, Window
from tests.support.hub_server import HubServer

SIZES = [("zh", 1440), ("en", 390)]


def start(folder: Path, *flags: str) -> Server:
    (folder / "models").mkdir(exist_ok=True)
    (folder / "settings.yaml").touch()
    return Server(folder, "--settings", str(folder / "settings.yaml"), *flags)


def check_width(window: Window) -> None:
    assert window.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("language", "width"), SIZES)
def test_the_chat_offers_to_load_the_model_that_is_picked(
    chromium: Browser, tmp_path: Path, tiny: Path, language: str, width: int
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gguf").symlink_to(tiny)
    server = start(tmp_path)
    try:
        with contextlib.closing(Window(chromium, server.url, language, (width, 900))) as window:
            card = window.page.locator("#tx-page-chat .tx-first section")
            expect(card).to_contain_text("tiny.gguf")
            check_width(window)
            card.locator("[data-act=load]").click()
            window.loaded()
            expect(card).to_have_count(0)
    finally:
        server.stop()


@pytest.mark.parametrize(("language", "width"), SIZES)
def test_the_chat_offers_a_download_and_loads_it(
    chromium: Browser, tmp_path: Path, tiny: Path, language: str, width: int
) -> None:
    with HubServer() as hub:
        for model in STARTER_MODELS:
            hub.add(model.repo, {model.file: tiny})
        fault = hub.fault("gguf", origin="cdn", rate=2_000_000)
        server = start(tmp_path, "--hf-endpoint", hub.url)
        try:
            with contextlib.closing(Window(chromium, server.url, language, (width, 900))) as window:
                card = window.page.locator("#tx-page-chat .tx-first section")
                expect(card.locator(".tx-first-path")).to_have_text(str(server.models))
                check_width(window)
                card.locator("[data-act=get]").last.click()
                expect(card.locator("[role=progressbar]")).to_be_visible()
                check_width(window)
                hub.faults.remove(fault)
                window.loaded(60)
                expect(card).to_have_count(0)
        finally:
            server.stop()


def test_the_model_page_follows_a_refresh_of_the_chat(chromium: Browser, tmp_path: Path, tiny: Path) -> None:
    server = start(tmp_path)
    try:
        with contextlib.closing(Window(chromium, server.url, "en", (1440, 900))) as window:
            card = window.page.locator("#tx-page-chat .tx-first section")
            (server.models / "tiny.gguf").write_bytes(tiny.read_bytes())
            card.locator("[data-act=refresh]").click()
            expect(card).to_contain_text("tiny.gguf")
            window.tab("Model")
            expect(window.page.locator("#tx-load")).to_be_visible()
            expect(window.page.locator("#tx-model-first section")).to_have_count(0)
    finally:
        server.stop()
