"""The list of models and the first run in a real browser: search, load, delete and undo, download, and the keyboard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from modules.planning.starter_models import STARTER_MODELS
from tests.browser.conftest import Server, Window, kept_open
from tests.browser.test_shell_page import check_accessibility
from tests.support.hub_server import HubServer

DEMO, OTHER = "demo-Q4_1.gguf", "sub/other-Q8_0.gguf"
WORDS = {
    "zh": {"model": "模型", "delete": "删除", "undo": "撤销", "copy": "复制文件夹路径", "restore": "恢复"},
    "en": {
        "model": "Model",
        "delete": "Delete",
        "undo": "Undo",
        "copy": "Copy folder path",
        "restore": "Restore",
    },
}
SIZES = [("zh", 1440), ("zh", 390), ("en", 390), ("en", 1440)]


@pytest.fixture(scope="module")
def hub(tiny: Path) -> Iterator[HubServer]:
    """A hub that has all starter models, each of which is the tiny model."""
    with HubServer() as started:
        for model in STARTER_MODELS:
            started.add(model.repo, {model.file: tiny})
        yield started


@contextlib.contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Server]:
    (folder / "models" / "sub").mkdir(parents=True)
    (folder / "settings.yaml").touch()
    server = Server(folder, "--settings", str(folder / "settings.yaml"), *flags)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("list")) as running:
        for name in (DEMO, OTHER, *(f"many-{number}.gguf" for number in range(150))):
            (running.models / name).symlink_to(tiny)
        yield running


@contextlib.contextmanager
def opened(chromium: Browser, server: Server, language: str, width: int) -> Iterator[Window]:
    """Yield a new window on the Model page."""
    with contextlib.closing(Window(chromium, server.url, language, (width, 900))) as window:
        window.tab(WORDS[language]["model"])
        expect(window.page.locator("#tx-downloads")).to_be_visible()
        yield window


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size[0]}-{size[1]}")
def size(request: pytest.FixtureRequest) -> tuple[str, int]:
    """A language and a width. As a fixture of the module, so that all tests of one size come one after another."""
    chosen: tuple[str, int] = request.param
    return chosen


@contextlib.contextmanager
def listed(chromium: Browser, server: Server, language: str, width: int) -> Iterator[Window]:
    """Yield a window on the Model page, with the whole list, that tests of the same size pass on to each other."""
    with kept_open(chromium, server, language, (width, 900)) as (window, new):
        if new:
            window.tab(WORDS[language]["model"])
        window.page.locator(".tx-ml-search").fill("")
        yield window


def row(window: Window, name: str) -> Locator:
    return window.page.locator(f'#tx-model-list [data-name="{name}"]')


def choose_from_menu(window: Window, name: str, item: str) -> None:
    row(window, name).locator(".tx-ml-more").click()
    window.page.get_by_role("menuitem", name=item, exact=True).click()


def check_width(window: Window) -> None:
    assert window.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_model_is_found_loaded_and_unloaded_in_the_list(
    chromium: Browser, server: Server, size: tuple[str, int]
) -> None:
    with listed(chromium, server, *size) as window:
        expect(window.page.locator(".tx-ml-row")).to_have_count(60)
        window.page.locator(".tx-ml-search").fill("other q8")
        expect(window.page.locator(".tx-ml-row")).to_have_count(1)
        row(window, OTHER).locator(".tx-ml-load").click()
        window.loaded()
        expect(row(window, OTHER)).to_have_attribute("data-state", "ready")
        expect(window.page.locator("#tx-facts [data-model]")).to_have_attribute("data-model", OTHER)
        check_width(window)
        row(window, OTHER).locator(".tx-ml-load").click()
        expect(window.page.locator("#tx-pill .tx-empty")).to_be_visible()
        expect(row(window, OTHER)).to_have_attribute("data-state", "")


def test_a_deletion_can_be_undone_at_once_and_later(chromium: Browser, server: Server, size: tuple[str, int]) -> None:
    words = WORDS[size[0]]
    with listed(chromium, server, *size) as window:
        page, path = window.page, server.models / OTHER
        page.locator(".tx-ml-search").fill("other")
        choose_from_menu(window, OTHER, words["delete"])
        expect(row(window, OTHER)).to_have_count(0)
        assert not path.is_symlink()
        check_width(window)
        page.locator("#tx-refresh").click()
        page.wait_for_timeout(700)
        page.locator(".tx-ml-undo").get_by_role("button", name=words["undo"]).click()
        expect(row(window, OTHER)).to_be_visible()
        assert path.is_symlink()
        choose_from_menu(window, OTHER, words["delete"])
        expect(row(window, OTHER)).to_have_count(0)
        page.locator(".tx-ml-bin summary").click()
        page.locator(".tx-ml-bin").get_by_role("button", name=words["restore"]).click()
        expect(row(window, OTHER)).to_be_visible()
        expect(page.locator(".tx-ml-bin")).to_be_hidden()


def test_more_rows_follow_at_the_end_of_the_list(chromium: Browser, server: Server) -> None:
    with listed(chromium, server, "en", 1440) as window:
        for count in (120, 152):
            window.page.locator(".tx-ml-end").scroll_into_view_if_needed()
            expect(window.page.locator(".tx-ml-row")).to_have_count(count)


def test_the_menu_of_a_model_works_by_keyboard(chromium: Browser, server: Server) -> None:
    with listed(chromium, server, "en", 1440) as window:
        page = window.page
        window.context.grant_permissions(["clipboard-read", "clipboard-write"])
        row(window, DEMO).locator(".tx-ml-more").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("menuitem", name="Load")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.get_by_role("menu")).to_have_count(0)
        expect(row(window, DEMO).locator(".tx-ml-more")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        expect(page.get_by_role("menuitem", name="Copy folder path")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator(".tx-ml-said")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == str(server.models)


SCHEMES = [("en", "light"), ("zh", "dark")]


@pytest.mark.parametrize(("language", "scheme"), SCHEMES)
def test_axe_finds_nothing_serious_in_the_list(chromium: Browser, server: Server, language: str, scheme: str) -> None:
    words = WORDS[language]
    with kept_open(chromium, server, language, (1440, 900), scheme) as (window, new):
        window.tab(words["model"])
        window.page.locator(".tx-ml-search").fill("many-7")
        choose_from_menu(window, "many-77.gguf", words["delete"])
        if not new:
            expect(window.page.locator(".tx-ml-bin")).to_be_visible()  # an earlier test has opened it
        else:
            window.page.locator(".tx-ml-bin summary").click()
        row(window, "many-78.gguf").locator(".tx-ml-more").click()
        check_accessibility(window.page)
        window.page.keyboard.press("Escape")
        window.page.locator(".tx-ml-bin").get_by_role("button", name=words["restore"]).click()
        expect(row(window, "many-77.gguf")).to_be_visible()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Iterator[Server]:
    """A server without models."""
    with serving(tmp_path_factory.mktemp("first run"), "--hf-endpoint", hub.url) as running:
        yield running


@pytest.mark.parametrize(("language", "scheme"), SCHEMES[::-1])
def test_axe_finds_nothing_serious_in_the_first_run(
    chromium: Browser, empty: Server, language: str, scheme: str
) -> None:
    with kept_open(chromium, empty, language, (1440, 900), scheme) as (window, _):
        check_accessibility(window.page)
        window.tab(WORDS[language]["model"])
        field = window.page.locator("#tx-hub-text").get_by_role("textbox")
        field.fill("qwen3")
        field.press("Enter")
        window.page.locator("#tx-hub-results [data-repo]").first.click()
        expect(window.page.locator(".tx-dl-table")).to_be_visible()
        check_accessibility(window.page)


def test_a_file_put_into_the_folder_is_found_by_refreshing(chromium: Browser, empty: Server, tiny: Path) -> None:
    with kept_open(chromium, empty, "en") as (window, _):
        window.tab("Model")
        (empty.models / "mine.gguf").symlink_to(tiny)
        window.page.locator("#tx-model-first [data-act=refresh]").click()
        expect(row(window, "mine.gguf")).to_be_visible()
        expect(window.page.locator("#tx-model-first section")).to_have_count(0)


@pytest.mark.parametrize(("language", "width"), [("zh", 390), ("en", 1440)])
def test_somebody_without_a_model_gets_one_with_one_click(
    chromium: Browser, tmp_path: Path, hub: HubServer, language: str, width: int
) -> None:
    with serving(tmp_path, "--hf-endpoint", hub.url) as server, opened(chromium, server, language, width) as window:
        page = window.page
        expect(page.locator("#tx-model-first .tx-first-path")).to_have_text(str(server.models))
        expect(page.locator("#tx-opts")).to_be_hidden()
        expect(page.locator("#tx-load")).to_be_hidden()
        check_width(window)
        page.locator("#tx-model-first [data-act=get]").last.click()
        window.loaded(60)
        expect(page.locator("#tx-model-first section")).to_have_count(0)
        expect(page.locator(".tx-ml-row[data-state=ready]")).to_have_count(1)
        expect(page.locator("#tx-opts")).to_be_visible()
