"""The list of conversations in the sidebar: open, search, rename, pin and delete, by pointer and by keyboard."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.conftest import Server, Window, kept_open

TITLES = ("Lighthouse", "Regex help", "为什么天空是蓝色的", "Paris")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without models, whose conversations are those of this file."""
    folder = tmp_path_factory.mktemp("conversation list")
    (folder / "models").mkdir()
    running = Server(folder)
    yield running
    running.stop()


@contextlib.contextmanager
def opened(chromium: Browser, server: Server, language: str = "en") -> Iterator[Window]:
    """Yield a window on a new chat, without conversations, that tests pass on to each other."""
    with kept_open(chromium, server, language) as (window, new):
        if not new:
            window.new_chat()
        delete_all(window)
        yield window


def delete_all(window: Window) -> None:
    """Delete all conversations for good, as a client of the server does."""
    request, headers = window.page.request, {"Origin": window.url}
    listed = request.get(f"{window.url}/chat/list").json()["conversations"]
    for one in listed:
        assert request.post(f"{window.url}/chat/{one['id']}/delete", data={}, headers=headers).ok
    assert request.post(f"{window.url}/chat/bin/empty", data={}, headers=headers).ok
    expect(window.page.locator(".tx-entry")).to_have_count(0)


def entry(window: Window, title: str) -> Locator:
    return window.page.locator(".tx-entry", has_text=title)


def test_a_conversation_is_opened_renamed_pinned_and_found(chromium: Browser, server: Server) -> None:
    with opened(chromium, server, "zh") as window:
        page = window.page
        window.import_conversations(TITLES)
        expect(page.locator(".tx-entry")).to_have_count(4)
        entry(window, "Regex").click()
        expect(page.locator("h1")).to_have_text("Regex help")
        assert "#chat/" in page.url
        page.reload()
        expect(page.locator("h1")).to_have_text("Regex help", timeout=30_000)
        page.locator("h1 button").click()
        page.keyboard.type("<b>正则</b>")
        page.keyboard.press("Enter")
        expect(entry(window, "<b>正则</b>")).to_be_visible()
        page.locator("li", has_text="Paris").hover()
        page.locator("li", has_text="Paris").get_by_role("button").click()
        page.get_by_role("menuitem", name="置顶").click()
        expect(page.locator("#tx-conversations section").first).to_contain_text("已置顶")
        expect(page.locator(".tx-entry").first).to_contain_text("Paris")
        page.keyboard.press("Control+k")
        page.keyboard.type("天空")
        expect(page.locator(".tx-entry")).to_have_count(1)
        expect(page.locator(".tx-entry mark").first).to_have_text("天空")
        page.keyboard.press("Escape")
        expect(page.locator(".tx-entry")).to_have_count(4)
        page.get_by_role("button", name="无痕对话", exact=True).click()
        expect(page.locator("#tx-incognito")).to_be_visible()
        expect(page.locator('[data-group="无痕对话"] .tx-entry')).to_have_attribute("aria-current", "page")
        page.locator('[data-group="无痕对话"] .tx-entry').focus()
        page.keyboard.press("Delete")
        expect(page.locator("#tx-incognito")).to_be_hidden()
        expect(page.locator(".tx-entry")).to_have_count(4)


def test_the_keyboard_moves_renames_and_deletes_with_undo(chromium: Browser, server: Server) -> None:
    with opened(chromium, server) as window:
        page = window.page
        window.import_conversations(TITLES)
        expect(page.locator(".tx-entry")).to_have_count(4)
        page.keyboard.press("Control+k")
        page.keyboard.press("ArrowDown")
        expect(entry(window, "Lighthouse")).to_be_focused()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Regex help")
        entry(window, "Regex").focus()
        page.keyboard.press("F2")
        page.keyboard.type("Patterns")
        page.keyboard.press("Enter")
        expect(entry(window, "Patterns")).to_be_focused()
        page.keyboard.press("Delete")
        expect(page.locator(".tx-entry")).to_have_count(3)
        expect(page.locator("h1")).to_have_text("New chat")
        page.get_by_role("button", name="Undo").click()
        expect(page.locator("h1")).to_have_text("Patterns")
        expect(page.locator(".tx-entry")).to_have_count(4)


def test_what_was_deleted_is_restored_from_the_bin_which_can_be_emptied(chromium: Browser, server: Server) -> None:
    with opened(chromium, server) as window:
        page = window.page
        window.import_conversations(TITLES)
        for title in TITLES[:3]:
            entry(window, title).focus()
            page.keyboard.press("Delete")
            expect(entry(window, title)).to_have_count(0)
        page.reload()
        page.get_by_role("button", name="Recently deleted (3)").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Restore “Regex help”").click()
        expect(entry(window, "Regex help")).to_be_visible()
        dialog.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Recently deleted (2)").click()
        dialog.get_by_role("button", name="Empty the bin").click()
        dialog.get_by_role("button", name="Delete 2 for good").click()
        expect(dialog).to_have_count(0)
        expect(page.locator("#tx-show-bin")).to_be_hidden()
        expect(page.locator(".tx-entry")).to_have_count(2)


def test_a_held_delete_key_and_a_double_click_delete_no_more_than_was_asked(chromium: Browser, server: Server) -> None:
    with opened(chromium, server) as window:
        page = window.page
        window.import_conversations(TITLES)
        entry(window, "Regex help").focus()
        page.keyboard.down("Delete")
        expect(entry(window, "Regex help")).to_have_count(0)
        page.keyboard.down("Delete")  # the same press: it repeats
        page.keyboard.up("Delete")
        page.locator("#tx-show-bin").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Empty the bin").dblclick()
        expect(dialog.locator(".tx-danger")).to_contain_text("for good")
        dialog.get_by_role("button", name="Restore “Regex help”").dblclick()
        expect(entry(window, "Regex help")).to_be_visible()
        expect(page.locator(".tx-entry")).to_have_count(len(TITLES))
        expect(page.locator(".tx-toast", has_text="no longer exists")).to_have_count(0)
        page.keyboard.press("Escape")


def test_the_list_follows_another_window(chromium: Browser, server: Server) -> None:
    phone = Window(chromium, server.url, "zh", (390, 844))
    with opened(chromium, server) as first, contextlib.closing(phone):
        ids = first.import_conversations(TITLES[:1])
        phone.page.locator("#tx-open-menu").click()
        expect(entry(phone, "Lighthouse")).to_be_visible()
        renamed = {"title": "Beacon"}
        first.page.request.post(f"{server.url}/chat/{ids[0]}/rename", data=renamed, headers={"Origin": server.url})
        expect(entry(phone, "Beacon")).to_be_visible()
        entry(phone, "Beacon").click()
        expect(phone.page.locator("#tx-sidebar")).to_be_hidden()
        expect(phone.page.locator("h1")).to_have_text("Beacon")


SEARCH = """async (text) => {
  const list = document.querySelector("#tx-conversations");
  const field = document.querySelector("#tx-search");
  const drawn = new Promise((resolve) => {
    new MutationObserver(() => resolve(performance.now())).observe(list, { childList: true });
  });
  const begun = performance.now();
  field.value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  return (await drawn) - begun;
}"""


def test_two_thousand_conversations_are_drawn_in_parts_and_searched_quickly(chromium: Browser, server: Server) -> None:
    with opened(chromium, server) as window:
        page = window.page
        window.import_conversations([f"Conversation {number}" for number in range(2000)])
        rows = page.locator("#tx-conversations li")
        expect(rows).to_have_count(100, timeout=60_000)
        page.locator("#tx-conversations-scroller").evaluate(
            "(scroller) => { scroller.scrollTop = scroller.scrollHeight }"
        )
        expect(rows).to_have_count(200)
        page.wait_for_timeout(1000)
        assert min(page.evaluate(SEARCH, text) for text in ("on 77", "on 78", "on 79")) < 300
        expect(page.locator(".tx-entry").first).to_contain_text("79")


def test_files_that_cannot_be_imported_are_told_after_the_others(chromium: Browser, server: Server) -> None:
    with opened(chromium, server) as window:
        good = json.dumps({"messages": [{"role": "user", "content": "海"}]}).encode()
        names = ["bad.json", *(f"{number}.json" for number in range(4))]
        files = [{"name": one, "mimeType": "application/json", "buffer": good} for one in names]
        files[0]["buffer"] = b"{"
        with window.page.expect_file_chooser() as chooser:
            window.page.locator("#tx-import").click()
        chooser.value.set_files(files)
        toasts = window.page.locator(".tx-toast")
        expect(toasts.filter(has_text="3.json")).to_have_count(1)
        expect(toasts.last).to_contain_text("bad.json")
