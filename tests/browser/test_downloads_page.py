"""The download panel in a real browser: list, select, download, interrupt and resume, then load."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import Server, Window, kept_open
from tests.support.downloading import noise, until
from tests.support.hub_server import HubServer

REPO, NAME = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf"
LONG = "a-rather-long-name-of-a-model-that-nobody-has-room-for-instruct-Q8_0"  # wider than a phone
SLOW = 300_000
"""Bytes a second."""


@pytest.fixture(scope="module")
def module_hub(tiny: Path) -> Iterator[HubServer]:
    """A hub with the tiny model, which takes 17 s at SLOW, and a file with a long name."""
    with HubServer() as started:
        parts = {f"{LONG}-{number:05}-of-00002.gguf": noise(20_000, number) for number in (1, 2)}
        started.add(REPO, {NAME: tiny, "README.md": b"hello", **parts})
        yield started


@pytest.fixture
def hub(module_hub: HubServer) -> Iterator[HubServer]:
    yield module_hub
    module_hub.faults.clear()


@contextlib.contextmanager
def serving(folder: Path, hub: HubServer) -> Iterator[Server]:
    """Start a server with an empty folder of models, or with that of the server before it."""
    (folder / "models").mkdir(exist_ok=True)
    (folder / "settings.yaml").touch()
    words = ("--settings", str(folder / "settings.yaml"), "--lora-dir", str(folder / "loras"), "--hf-endpoint", hub.url)
    server = Server(folder, *words)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, module_hub: HubServer) -> Iterator[Server]:
    """The server of the tests that do not restart it."""
    with serving(tmp_path_factory.mktemp("downloads page"), module_hub) as running:
        yield running


@pytest.fixture
def window(chromium: Browser, server: Server) -> Iterator[Window]:
    """An English window on the download panel that tests pass on to each other, without downloads."""
    with kept_open(chromium, server, "en") as (window, _new):
        open_panel(window)
        expect(window.page.locator(".tx-dl-job")).to_have_count(0)
        yield window


@contextlib.contextmanager
def opened(chromium: Browser, server: Server, language: str, width: int) -> Iterator[Window]:
    """Yield a new window on the download panel."""
    with contextlib.closing(Window(chromium, server.url, language, (width, 900))) as window:
        open_panel(window)
        yield window


def open_panel(window: Window) -> None:
    window.tab("模型" if window.language == "zh" else "Model")
    expect(window.page.locator("#tx-downloads")).to_be_visible()


def enter_address(page: Page, address: str) -> None:
    field = page.locator("#tx-dl-address").get_by_role("textbox")
    field.fill(address)
    field.press("Enter")


def row(page: Page, name: str) -> Locator:
    return page.locator(f'.tx-dl-row[data-name="{name}"]')


def choose(page: Page, name: str) -> None:
    """Select this file alone, whatever is selected in advance."""
    expect(row(page, name)).to_be_visible()
    for box in page.locator("#tx-dl-files input:checked").all():
        box.uncheck()
    row(page, name).locator("input").check()


def percent_done(page: Page) -> float:
    """Return the progress of the only download."""
    return float(page.locator(".tx-dl-job [role=progressbar]").get_attribute("aria-valuenow") or 0)


def wait_for_progress(page: Page) -> None:
    before = percent_done(page)
    until(lambda: page.wait_for_timeout(100) or percent_done(page) > before, 15)


def forget(page: Page) -> None:
    """Remove the only download from the list."""
    page.locator("[data-act=forget]").click()
    expect(page.locator(".tx-dl-job")).to_have_count(0)


def check_width(page: Page) -> None:
    """Check that the page does not scroll horizontally."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_model_is_selected_downloaded_across_interruptions_and_loaded(
    chromium: Browser, tmp_path: Path, hub: HubServer
) -> None:
    """In English on a phone."""
    with serving(tmp_path, hub) as server, opened(chromium, server, "en", 390) as window:
        page = window.page
        enter_address(page, REPO)
        expect(row(page, NAME).locator("input")).to_be_checked()
        expect(row(page, f"{LONG}-00001-of-00002.gguf")).to_be_visible()
        expect(row(page, NAME).locator(".tx-dl-fits")).to_have_attribute("data-kind", "fits")
        check_width(page)
        choose(page, NAME)
        expect(page.locator("#tx-dl-download")).to_contain_text("4.97 MB")
        fault = hub.fault(re.escape(NAME), origin="cdn", rate=SLOW)  # not while its header is read
        page.locator("#tx-dl-download").click()
        wait_for_progress(page)
        check_width(page)
        page.screenshot(path=tmp_path / "running.png", full_page=True)
        page.reload()
        open_panel(window)
        wait_for_progress(page)
        assert not (tmp_path / "models" / NAME).exists(), "an incomplete file is not a model"
        kept, sent = percent_done(page), hub.sent
    with serving(tmp_path, hub) as server, opened(chromium, server, "en", 390) as window:
        page = window.page
        expect(page.locator(".tx-dl-interrupted")).to_contain_text("Interrupted")
        page.screenshot(path=tmp_path / "interrupted.png", full_page=True)
        hub.faults.remove(fault)
        page.locator("[data-act=resume]").click()
        expect(page.locator(".tx-dl-done")).to_be_visible(timeout=60_000)
        size, resent = (tmp_path / "models" / NAME).stat().st_size, hub.sent - sent
        assert kept > 0 and resent < (1.5 - kept / 100) * size, (
            "the first part was kept; half of the file is its header"
        )
        page.screenshot(path=tmp_path / "done.png", full_page=True)
        expect(page.locator("#tx-model input")).to_have_value(NAME)
        page.locator("#tx-load").click()
        window.loaded()
        check_width(page)
        forget(page)


def test_a_paused_download_of_an_updated_branch_restarts_with_the_new_commit(
    window: Window, server: Server, hub: HubServer
) -> None:
    page, old, new = window.page, noise(3_000_000, 1), noise(3_000_000, 2)
    hub.add("user/updated", {"updated.Q8_0.gguf": old})
    enter_address(page, "user/updated")
    choose(page, "updated.Q8_0.gguf")
    expect(page.locator("#tx-dl-download")).to_contain_text("3.00 MB")
    fault = hub.fault("updated.Q8_0", origin="cdn", rate=SLOW)
    page.locator("#tx-dl-download").click()
    wait_for_progress(page)
    page.locator("[data-act=pause]").click()
    expect(page.locator(".tx-dl-paused")).to_be_visible()
    hub.add("user/updated", {"updated.Q8_0.gguf": new})
    hub.faults.remove(fault)
    page.locator("[data-act=resume]").click()
    expect(page.locator(".tx-dl-choose")).to_contain_text("was updated")
    page.locator("[data-act=restart]").click()
    expect(page.locator(".tx-dl-done")).to_be_visible(timeout=30_000)
    assert (server.models / "updated.Q8_0.gguf").read_bytes() == new
    forget(page)


def test_cancelling_asks_first_and_the_question_stays_while_the_download_moves(
    window: Window, server: Server, hub: HubServer
) -> None:
    page = window.page
    enter_address(page, REPO)
    choose(page, NAME)
    expect(page.locator("#tx-dl-download")).to_contain_text("4.97 MB")
    expect(row(page, NAME).locator(".tx-dl-fits")).to_have_attribute("data-kind", "fits")
    hub.fault(re.escape(NAME), origin="cdn", rate=SLOW)
    page.locator("#tx-dl-download").click()
    wait_for_progress(page)
    expect(page.locator(".tx-dl-confirm")).not_to_be_visible()
    page.locator("[data-act=ask]").click()
    wait_for_progress(page)
    expect(page.locator(".tx-dl-confirm")).to_contain_text("delete the")
    expect(page.locator("[data-act=unask]")).to_be_focused()
    page.locator("[data-act=unask]").click()
    expect(page.locator(".tx-dl-confirm")).not_to_be_visible()
    wait_for_progress(page)
    page.locator("[data-act=ask]").click()
    page.locator("[data-act=cancel]").click()
    expect(page.locator(".tx-dl-cancelled")).to_be_visible()
    assert list(server.models.rglob("*.part*")) == []
    forget(page)


def test_an_invalid_address_is_reported(window: Window) -> None:
    page = window.page
    page.set_viewport_size({"width": 390, "height": 900})
    problem = page.locator("#tx-dl-status [role=alert]")
    for address, text in (("nonsense", "'nonsense' does not name a model"), ("no/body", "was not found")):
        enter_address(page, address)
        expect(problem).to_contain_text(text)
    check_width(page)
    for fold in ("#tx-dl-settings", "#tx-creator"):
        page.locator(f"{fold} > button").click()
    expect(page.locator("#tx-dl-hosts")).to_be_visible()
    check_width(page)
    for fold in ("#tx-dl-settings", "#tx-creator"):
        page.locator(f"{fold} > button").click()
    page.set_viewport_size({"width": 1440, "height": 900})


def test_a_new_list_starts_with_its_own_selection_and_other_windows_show_the_download(
    chromium: Browser, window: Window, server: Server, hub: HubServer
) -> None:
    page = window.page
    hub.add("user/other", {"b.Q8_0.gguf": noise(20_000), "a.Q4_0.gguf": noise(30_000)})
    with opened(chromium, server, "zh", 1440) as other:
        enter_address(page, REPO)
        choose(page, NAME)
        expect(page.locator("#tx-dl-download")).to_contain_text("4.97 MB")
        enter_address(page, "user/other")
        expect(row(page, "b.Q8_0.gguf")).to_be_visible()
        expect(page.locator("#tx-dl-files input:checked")).to_have_count(1)
        expect(row(page, "a.Q4_0.gguf").locator("input")).to_be_checked()
        choose(page, "b.Q8_0.gguf")
        expect(page.locator("#tx-dl-download")).to_contain_text("20.0 KB")
        page.locator("#tx-dl-download").click()
        for shown in (page, other.page):
            expect(shown.locator(".tx-dl-done")).to_be_visible()
        expect(row(page, "b.Q8_0.gguf").locator(".tx-dl-downloaded")).to_have_text("Downloaded")
    forget(page)


def test_a_downloaded_lora_appears_only_in_the_lora_menu(window: Window, hub: HubServer) -> None:
    page = window.page
    hub.add("user/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": noise(20_000)})
    enter_address(page, "user/lora")
    expect(page.locator("#tx-dl-status")).to_contain_text("LoRA → loras/user_lora")
    page.locator("#tx-dl-download").click()
    expect(page.locator(".tx-dl-done")).to_be_visible()
    downloaded = page.get_by_role("option", name="user_lora", exact=True)
    page.locator("#tx-lora input").first.click()
    expect(downloaded).to_be_visible()
    page.keyboard.press("Escape")
    expect(downloaded).to_be_hidden()
    expect(page.locator('#tx-model-list [data-name="user_lora"]')).to_have_count(0)
    forget(page)


@pytest.mark.parametrize(("language", "width"), [("zh", 390), ("en", 1440)])
def test_a_model_is_found_on_the_hub_downloaded_and_loaded(
    chromium: Browser, tmp_path: Path, hub: HubServer, language: str, width: int
) -> None:
    with serving(tmp_path, hub) as server, opened(chromium, server, language, width) as window:
        page = window.page
        field = page.locator("#tx-hub-text").get_by_role("textbox")
        field.fill("smollm2 135m")
        field.press("Enter")
        page.locator("#tx-hub-results").get_by_role("button", name=REPO).click()
        expect(row(page, NAME).locator("input")).to_be_checked()
        expect(page.locator("#tx-dl-address").get_by_role("textbox")).to_have_value(REPO)
        check_width(page)
        page.locator("#tx-dl-download").click()
        page.locator(".tx-dl-done [data-act=load]").click(timeout=60_000)
        window.loaded()
        expect(page.locator(".tx-ml-row[data-state=ready]")).to_have_attribute("data-name", NAME)
        check_width(page)
        forget(page)


def test_an_unreachable_site_leads_to_the_choice_of_another(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "settings.yaml").touch()
    server = Server(tmp_path, "--settings", str(tmp_path / "settings.yaml"), "--hf-endpoint", "http://127.0.0.1:9")
    try:
        with opened(chromium, server, "en", 1440) as window:
            page = window.page
            enter_address(page, REPO)
            page.locator("#tx-dl-status").get_by_role("button", name="Change the download site").click()
            expect(page.locator("#tx-dl-endpoint").get_by_role("textbox")).to_be_focused()
    finally:
        server.stop()


def test_the_token_is_never_shown_and_the_endpoint_is_saved(window: Window, server: Server, hub: HubServer) -> None:
    """This is the last test, because the endpoint stays set."""
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
    expect(page.locator("#tx-dl-settings-line [role=alert]")).to_contain_text("not a valid download site")
    endpoint.fill(f"{hub.url}, other.example")
    endpoint.press("Enter")
    expect(page.locator("#tx-dl-hosts")).to_contain_text("other.example")
    page.reload()
    open_panel(window)
    page.locator("#tx-dl-settings > button").click()
    expect(page.locator("#tx-dl-endpoint").get_by_role("textbox")).to_have_value(f"{hub.url}, https://other.example")
    assert "hf_secret" not in page.content() + server.log.read_text()
    assert "hf_secret" not in "".join(path.read_text() for path in server.models.parent.glob("*.yaml"))
