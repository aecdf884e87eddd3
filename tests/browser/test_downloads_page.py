"""The download panel in a real browser: list, select, download, interrupt and resume, then load."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import Server, Window
from tests.support.downloading import noise, until
from tests.support.hub_server import HubServer

REPO, NAME = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf"
LONG = "a-rather-long-name-of-a-model-that-nobody-has-room-for-instruct-Q8_0"
SLOW = 300_000
"""Bytes a second."""


@pytest.fixture
def hub(tiny: Path) -> Iterator[HubServer]:
    """A hub whose model is the tiny one, which takes 17 s at SLOW."""
    with HubServer() as started:
        parts = {f"{LONG}-{number:05}-of-00002.gguf": noise(20_000, number) for number in (1, 2)}
        started.add(REPO, {NAME: tiny, "README.md": b"hello", **parts})
        yield started


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "settings.yaml").touch()
    return tmp_path


@contextlib.contextmanager
def serving(place: Path, hub: HubServer) -> Iterator[Server]:
    words = ("--settings", str(place / "settings.yaml"), "--lora-dir", str(place / "loras"), "--hf-endpoint", hub.url)
    server = Server(place, *words)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def opened(chromium: Browser, server: Server, language: str = "zh", width: int = 1440) -> Iterator[Window]:
    with contextlib.closing(Window(chromium, server.url, language, (width, 900))) as window:
        to_panel(window)
        yield window


def to_panel(window: Window) -> None:
    window.tab("模型" if window.language == "zh" else "Model")
    expect(window.page.locator("#tx-downloads")).to_be_visible()


def asked(page: Page, address: str) -> None:
    field = page.locator("#tx-dl-address").get_by_role("textbox")
    field.fill(address)
    field.press("Enter")


def row(page: Page, name: str) -> Locator:
    return page.locator(f'.tx-dl-row[data-name="{name}"]')


def share(page: Page) -> float:
    """How much of the one download is there, in percent."""
    return float(page.locator(".tx-dl-job [role=progressbar]").get_attribute("aria-valuenow") or 0)


def moves(page: Page) -> None:
    before = share(page)
    until(lambda: page.wait_for_timeout(100) or share(page) > before, 15)


def no_sideways(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_model_is_selected_downloaded_across_interruptions_and_loaded(
    chromium: Browser, place: Path, hub: HubServer
) -> None:
    """In English on a phone; the other tests here see the page in Chinese on a desktop."""
    fault = hub.fault(re.escape(NAME), origin="cdn", rate=SLOW)
    with serving(place, hub) as server, opened(chromium, server, "en", 390) as window:
        page = window.page
        asked(page, REPO)
        expect(row(page, NAME).locator("input")).not_to_be_checked()
        expect(row(page, f"{LONG}-00001-of-00002.gguf")).to_be_visible()
        expect(row(page, NAME).locator(".tx-dl-fits")).to_have_attribute("data-kind", "fits")
        no_sideways(page)
        row(page, NAME).click()
        expect(page.locator("#tx-dl-download")).to_contain_text("4.97 MB")
        page.locator("#tx-dl-download").click()
        moves(page)
        no_sideways(page)
        page.screenshot(path=place / "running.png", full_page=True)
        page.reload()
        to_panel(window)
        moves(page)
        assert not (place / "models" / NAME).exists(), "what is not complete is no model"
        page.locator("[data-act=pause]").click()
        expect(page.locator(".tx-dl-paused")).to_be_visible()
        kept, sent = share(page), hub.sent
        page.screenshot(path=place / "paused.png", full_page=True)
    with serving(place, hub) as server, opened(chromium, server, "en", 390) as window:
        page = window.page
        expect(page.locator(".tx-dl-paused")).to_be_visible()
        page.locator("[data-act=resume]").click()
        hub.faults.remove(fault)
        expect(page.locator(".tx-dl-done")).to_be_visible(timeout=60_000)
        size, again = (place / "models" / NAME).stat().st_size, hub.sent - sent
        assert kept > 0 and again < (1.5 - kept / 100) * size, "what was there was kept; half of the file is its header"
        page.screenshot(path=place / "done.png", full_page=True)
        expect(page.locator("#tx-model input")).to_have_value(NAME)
        page.locator("#tx-load").click()
        window.loaded()
        no_sideways(page)
        page.locator("[data-act=forget]").click()
        expect(page.locator(".tx-dl-job")).to_have_count(0)


def test_an_interrupted_download_is_shown_and_resumed(chromium: Browser, place: Path, hub: HubServer) -> None:
    fault = hub.fault(re.escape(NAME), origin="cdn", rate=SLOW)
    with serving(place, hub) as server, opened(chromium, server) as window:
        window.page.locator("#tx-dl-file").get_by_role("textbox").fill(NAME)
        window.page.locator("#tx-dl-address").get_by_role("textbox").fill(REPO)
        window.page.locator("#tx-dl-download").click()
        moves(window.page)
    hub.faults.remove(fault)
    with serving(place, hub) as server, opened(chromium, server) as window:
        expect(window.page.locator(".tx-dl-interrupted")).to_contain_text("已中断")
        window.page.locator("[data-act=resume]").click()
        expect(window.page.locator(".tx-dl-done")).to_be_visible(timeout=60_000)


def test_the_commit_of_an_updated_branch_is_chosen_by_a_button(chromium: Browser, place: Path, hub: HubServer) -> None:
    old, new = noise(3_000_000, 1), noise(3_000_000, 2)
    with serving(place, hub) as server, opened(chromium, server, "en") as window:
        page = window.page
        for act, expected in (("keep", old), ("restart", new)):
            hub.add(f"user/{act}", {f"{act}.Q8_0.gguf": old})
            fault = hub.fault(f"{act}.Q8_0", origin="cdn", rate=300_000)
            asked(page, f"user/{act}")
            row(page, f"{act}.Q8_0.gguf").click()
            expect(page.locator("#tx-dl-download")).to_contain_text("3.00 MB")
            page.locator("#tx-dl-download").click()
            moves(page)
            page.locator("[data-act=pause]").click()
            expect(page.locator(".tx-dl-paused")).to_be_visible()
            hub.add(f"user/{act}", {f"{act}.Q8_0.gguf": new})
            hub.faults.remove(fault)
            page.locator("[data-act=resume]").click()
            expect(page.locator(".tx-dl-choose")).to_contain_text("was updated")
            page.locator(f"[data-act={act}]").click()
            expect(page.locator(".tx-dl-done")).to_be_visible(timeout=30_000)
            assert (place / "models" / f"{act}.Q8_0.gguf").read_bytes() == expected
            page.locator("[data-act=forget]").click()
            expect(page.locator(".tx-dl-job")).to_have_count(0)


def test_cancelling_asks_first_and_the_question_stays_while_the_download_moves(
    chromium: Browser, place: Path, hub: HubServer
) -> None:
    hub.fault(re.escape(NAME), origin="cdn", rate=SLOW)
    with serving(place, hub) as server, opened(chromium, server, "en") as window:
        page = window.page
        asked(page, REPO)
        row(page, NAME).click()
        expect(page.locator("#tx-dl-download")).to_contain_text("4.97 MB")
        page.locator("#tx-dl-download").click()
        moves(page)
        expect(page.locator(".tx-dl-confirm")).not_to_be_visible()
        page.locator("[data-act=ask]").click()
        moves(page)
        expect(page.locator(".tx-dl-confirm")).to_contain_text("delete the")
        expect(page.locator("[data-act=unask]")).to_be_focused()
        page.locator("[data-act=unask]").click()
        expect(page.locator(".tx-dl-confirm")).not_to_be_visible()
        moves(page)
        page.locator("[data-act=ask]").click()
        page.locator("[data-act=cancel]").click()
        expect(page.locator(".tx-dl-cancelled")).to_be_visible()
        assert list((place / "models").rglob("*.part*")) == []
        page.locator("[data-act=forget]").click()
        expect(page.locator(".tx-dl-job")).to_have_count(0)


def test_an_invalid_address_is_reported(chromium: Browser, place: Path, hub: HubServer) -> None:
    said = {"zh": ("无法识别“nonsense”", "找不到"), "en": ("'nonsense' does not name a model", "was not found")}
    with serving(place, hub) as server:
        for language, words in said.items():
            with opened(chromium, server, language, 390) as window:
                page = window.page
                for address, word in zip(("nonsense", "no/body"), words, strict=True):
                    asked(page, address)
                    expect(page.locator("#tx-dl-status [role=alert]")).to_contain_text(word)
                no_sideways(page)
                page.locator("#tx-dl-settings > button").click()
                page.locator("#tx-creator > button").click()
                expect(page.locator("#tx-dl-hosts")).to_be_visible()
                no_sideways(page)


def test_a_new_list_starts_unselected_and_downloads_of_others_are_shown(
    chromium: Browser, place: Path, hub: HubServer
) -> None:
    hub.add("user/other", {"b.Q8_0.gguf": noise(20_000), "a.Q4_0.gguf": noise(30_000)})
    with serving(place, hub) as server, opened(chromium, server) as window, opened(chromium, server, "en") as other:
        asked(window.page, REPO)
        row(window.page, NAME).click()
        expect(window.page.locator("#tx-dl-download")).to_contain_text("4.97 MB")
        asked(window.page, "user/other")
        expect(row(window.page, "b.Q8_0.gguf")).to_be_visible()
        expect(window.page.locator("#tx-dl-files input:checked")).to_have_count(0)
        row(window.page, "b.Q8_0.gguf").click()
        expect(window.page.locator("#tx-dl-download")).to_contain_text("20.0 KB")
        window.page.locator("#tx-dl-download").click()
        for page in (window.page, other.page):
            expect(page.locator(".tx-dl-done")).to_be_visible()
        expect(row(window.page, "b.Q8_0.gguf").locator(".tx-dl-downloaded")).to_have_text("已下载")


def test_a_downloaded_lora_appears_only_in_the_lora_menu(chromium: Browser, place: Path, hub: HubServer) -> None:
    hub.add("user/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": noise(20_000)})
    with serving(place, hub) as server, opened(chromium, server, "en") as window:
        page = window.page
        asked(page, "user/lora")
        expect(page.locator("#tx-dl-status")).to_contain_text("LoRA → loras/user_lora")
        page.locator("#tx-dl-download").click()
        expect(page.locator(".tx-dl-done")).to_be_visible()
        page.locator("#tx-lora input").first.click()
        expect(page.get_by_role("option", name="user_lora", exact=True)).to_be_visible()
        expect(page.locator("#tx-model input")).to_have_value("")


def test_the_token_is_never_shown_and_the_endpoint_is_saved(chromium: Browser, place: Path, hub: HubServer) -> None:
    with serving(place, hub) as server, opened(chromium, server, "en") as window:
        page = window.page
        page.locator("#tx-dl-settings > button").click()
        token = page.locator("#tx-dl-token input")
        expect(token).to_have_attribute("type", "password")
        token.fill("hf_secret")
        page.locator("#tx-dl-token-use").click()
        expect(page.locator("#tx-dl-settings-line")).to_contain_text("Sent only to: huggingface.co")
        expect(token).to_have_value("")
        endpoint = page.locator("#tx-dl-endpoint").get_by_role("textbox")
        expect(endpoint).to_have_value(hub.url)
        endpoint.fill("ftp://x")
        endpoint.press("Enter")
        expect(page.locator("#tx-dl-settings-line [role=alert]")).to_contain_text("not a valid endpoint")
        endpoint.fill(f"{hub.url}, other.example")
        endpoint.press("Enter")
        expect(page.locator("#tx-dl-hosts")).to_contain_text("other.example")
        page.reload()
        to_panel(window)
        page.locator("#tx-dl-settings > button").click()
        expect(page.locator("#tx-dl-endpoint").get_by_role("textbox")).to_have_value(
            f"{hub.url}, https://other.example"
        )
        assert "hf_secret" not in page.content() + (place / "server.log").read_text()
    assert "hf_secret" not in "".join(path.read_text() for path in place.glob("*.yaml"))
