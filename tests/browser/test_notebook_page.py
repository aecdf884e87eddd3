"""The notebook as writers use it: write, let the model go on, look at its choices, take another one, go back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, Window, kept_open
from tests.browser.test_page import prepare_chat

STORY = "The capital of France is"
TARGETS = """() => [...document.querySelectorAll('#tx-notebook button, #tx-notebook input')]
  .filter(one => one.offsetParent && one.type !== 'checkbox').map(one => [one.id, one.offsetWidth, one.offsetHeight])
  .filter(([, width, height]) => width < 44 || height < 44)"""


@pytest.fixture
def window(chromium: Browser, server: Server) -> Iterator[Window]:
    """A desktop window in Chinese on an empty text, with the model loaded."""
    with kept_open(chromium, server) as (window, _):
        prepare_chat(window, 8)
        begin(window)
        yield window


def begin(window: Window) -> None:
    window.tab("笔记本" if window.language == "zh" else "Notebook")
    window.page.locator("#nb-new").click()
    expect(window.page.locator("#nb-text")).to_have_value("")


def write(page: Page, text: str) -> None:
    page.locator("#nb-text").fill(text)
    expect(page.locator("#nb-status")).to_have_text(re.compile("已保存|^Saved"))


def wait_until_written(page: Page, before: str = STORY) -> str:
    """Wait until the model has ended, and return the text."""
    expect(page.locator("#nb-text")).not_to_have_value(before)
    expect(page.locator("#nb-generate")).to_be_enabled()
    return page.locator("#nb-text").input_value()


def save_elsewhere(window: Window, name: str, text: str) -> None:
    """Save a text as another tab does."""
    address = f"{window.url}/notebook/{name}/save"
    window.page.request.post(address, data={"text": text}, headers={"Origin": window.url})


def test_a_writer_goes_on_from_another_token_and_back_again(window: Window, server: Server) -> None:
    page = window.page
    write(page, STORY)
    page.locator("#nb-generate").click()
    text = wait_until_written(page)
    assert text.startswith(f"{STORY} Paris")
    name = page.locator("#nb-name").inner_text()
    file = server.models.parent / "logs" / "notebook" / f"{name}.txt"
    assert file.read_text(encoding="utf-8") == text

    page.locator("#nb-tab-probabilities").click()
    tokens = page.locator("#nb-flow .nb-token")
    expect(tokens).to_have_count(8)
    tokens.nth(0).hover()
    candidates = page.locator("#nb-candidates [role=menuitem]")
    expect(candidates).to_have_count(10)
    expect(candidates.first).to_have_attribute("aria-label", re.compile(r"^“ Paris”，\d+\.\d%"))
    second = candidates.nth(1)
    chosen = re.match("“(.*)”", second.get_attribute("aria-label")).group(1)
    second.click()
    page.locator("#nb-tab-raw").click()
    other = wait_until_written(page, text)
    assert other.startswith(STORY + chosen)

    page.keyboard.press("Alt+z")
    expect(page.locator("#nb-text")).to_have_value(text)
    page.keyboard.press("Alt+Shift+z")
    expect(page.locator("#nb-text")).to_have_value(other)
    page.reload()
    expect(page.locator("#nb-text")).to_have_value(other)
    page.locator("#nb-undo").click()
    expect(page.locator("#nb-text")).to_have_value(text)

    page.locator("#nb-tab-next").click()
    expect(page.locator(".nb-columns .nb-table").first).to_contain_text("100.0%")
    page.get_by_label("使用采样器").uncheck()
    expect(page.locator(".nb-columns section").first.locator("tbody tr")).to_have_count(50)
    page.locator("#nb-tab-tokens").click()
    expect(page.locator("#nb-view tbody tr").first).to_contain_text("54 68 65")
    page.locator("#nb-beside").click()
    expect(page.locator("#nb-text")).to_be_visible()
    expect(page.locator("#nb-view")).to_be_visible()
    page.locator("#nb-tab-rendered").click()
    page.locator("#nb-text").fill("# Title")
    expect(page.locator("#nb-view h3")).to_have_text("Title")
    page.locator("#nb-beside").click()
    page.locator("#nb-tab-raw").click()

    page.locator("#tx-show-keys").click()
    expect(page.locator("#tx-keys")).to_contain_text("重做生成")
    expect(page.locator("#tx-keys")).not_to_contain_text("Backspace")  # which is for the chat, and does nothing here
    page.keyboard.press("Escape")

    page.locator("#nb-text").fill("🐱 typed just before")
    page.reload()
    expect(page.locator("#nb-text")).to_have_value("🐱 typed just before")
    expect(page.locator("#nb-status")).to_have_text("已保存")
    assert file.read_text(encoding="utf-8") == "🐱 typed just before"


def test_on_a_phone_a_text_is_written_renamed_deleted_and_brought_back(chromium: Browser, server: Server) -> None:
    with kept_open(chromium, server, "en", (390, 844)) as (window, _):
        prepare_chat(window, 8)
        begin(window)
        page = window.page
        write(page, STORY)
        page.locator("#nb-generate").tap()
        text = wait_until_written(page)
        page.locator("#nb-tab-probabilities").tap()
        page.locator("#nb-flow .nb-token").nth(1).tap()
        expect(page.locator("#nb-candidates [role=menuitem]").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.keyboard.press("Escape")
        page.locator("#nb-tab-rendered").tap()
        expect(page.locator("#nb-view .tx-md")).to_contain_text(text.split("\n")[0])
        page.locator("#nb-tab-raw").tap()
        assert page.evaluate(TARGETS) == []

        page.locator("#nb-rename").tap()
        page.locator("#nb-rename-field").fill("A story")
        page.locator("#nb-rename-field").press("Enter")
        expect(page.locator("#nb-name")).to_have_text("A story")
        expect(page).to_have_url(re.compile("#notebook/A%20story$"))
        page.locator("#nb-name").tap()
        row = page.locator("#nb-list li[data-name='A story']")
        row.get_by_role("button", name="Delete").tap()
        expect(row).to_have_count(0)
        page.keyboard.press("Escape")
        expect(page.locator("#nb-name")).not_to_have_text("A story")
        page.locator(".tx-toast").get_by_role("button", name="Undo").tap()
        expect(page.locator("#nb-name")).to_have_text("A story")
        expect(page.locator("#nb-text")).to_have_value(text)
        page.locator("#nb-undo").tap()
        expect(page.locator("#nb-text")).to_have_value(STORY)


def test_two_tabs_keep_both_texts_and_the_model_goes_on_without_a_page(window: Window, server: Server) -> None:
    page = window.page
    prepare_chat(window, 300)  # so many that the answer is still being written when the page is left
    begin(window)
    write(page, STORY)
    second = window.context.new_page()
    second.goto(page.url)
    expect(second.locator("#nb-text")).to_have_value(STORY)
    # Both tabs are shown, so each hears of the other; typing at the same time does not.
    second.route("**/notebook/events*", lambda route: route.abort())
    second.reload()
    expect(second.locator("#nb-text")).to_have_value(STORY)
    write(page, f"{STORY} old")
    second.locator("#nb-text").fill(f"{STORY} large")
    expect(second.locator("#nb-keep")).to_be_visible()
    expect(second.locator("#nb-text")).to_have_value(f"{STORY} large")
    second.locator("#nb-keep").click()
    expect(second.locator("#nb-keep")).to_have_count(0)
    expect(page.locator("#nb-text")).to_have_value(f"{STORY} large")
    page.locator("#nb-undo").click()
    expect(page.locator("#nb-text")).to_have_value(f"{STORY} old")
    page.locator("#nb-redo").click()
    expect(page.locator("#nb-text")).to_have_value(f"{STORY} large")
    second.close()

    name = page.locator("#nb-name").inner_text()
    file: Path = server.models.parent / "logs" / "notebook" / f"{name}.txt"
    page.locator("#nb-generate").click()
    expect(page.locator("#nb-stop")).to_be_visible()
    page.goto("about:blank")
    deadline = time.monotonic() + 60
    while file.read_text(encoding="utf-8") == f"{STORY} large":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    window.open("/zh/")


def test_what_is_typed_while_a_change_of_another_tab_is_read_is_kept(window: Window) -> None:
    page = window.page
    write(page, STORY)
    name = page.locator("#nb-name").inner_text()
    release = window.hold_answers("/text?")
    with page.expect_response(re.compile("/text[?]")):
        save_elsewhere(window, name, f"{STORY} old")
    page.locator("#nb-text").press("End")
    page.keyboard.type(" large")
    release()
    expect(page.locator("#nb-keep")).to_be_visible()
    page.wait_for_timeout(300)
    expect(page.locator("#nb-text")).to_have_value(f"{STORY} large")
    page.locator("#nb-keep").click()
    expect(page.locator("#nb-keep")).to_have_count(0)
    page.reload()
    expect(page.locator("#nb-text")).to_have_value(f"{STORY} large")


def test_what_is_typed_is_kept_if_a_change_of_another_tab_arrives_while_it_is_saved(window: Window) -> None:
    page = window.page
    write(page, STORY)
    name = page.locator("#nb-name").inner_text()
    release_text, release_save = window.hold_answers("/text?"), window.hold_answers("/save")
    with page.expect_response(re.compile("/text[?]")):
        save_elsewhere(window, name, f"{STORY} old")
    with page.expect_response(re.compile("/save")):
        page.locator("#nb-text").fill(f"{STORY} large")
    release_text()
    page.wait_for_timeout(300)
    release_save()
    expect(page.locator("#nb-keep")).to_be_visible()
    expect(page.locator("#nb-text")).to_have_value(f"{STORY} large")
    page.locator("#nb-keep").click()
    expect(page.locator("#nb-keep")).to_have_count(0)
    page.reload()
    expect(page.locator("#nb-text")).to_have_value(f"{STORY} large")


def test_what_is_typed_while_another_text_is_opened_is_saved(window: Window) -> None:
    page = window.page
    write(page, "The other one")
    other = page.locator("#nb-name").inner_text()
    page.locator("#nb-new").click()
    write(page, STORY)
    first = page.locator("#nb-name").inner_text()
    release = window.hold_answers("/text?")
    with page.expect_response(re.compile("/text[?]")):
        page.evaluate("name => { location.hash = `#notebook/${encodeURIComponent(name)}`; }", other)
    page.locator("#nb-text").fill(f"{STORY} large")
    release()
    expect(page.locator("#nb-text")).to_have_value("The other one")
    page.evaluate("name => { location.hash = `#notebook/${encodeURIComponent(name)}`; }", first)
    expect(page.locator("#nb-text")).to_have_value(f"{STORY} large")
    page.reload()


def test_what_is_typed_stays_when_an_undo_arrives_and_a_deletion_is_refused(window: Window) -> None:
    page = window.page
    write(page, STORY)
    page.locator("#nb-generate").click()
    wait_until_written(page)
    releases = window.hold_answers("/undo"), window.hold_answers("/text?")  # which the page reads when it hears of it
    with page.expect_response(re.compile("/undo")):
        page.locator("#nb-undo").click()
    page.locator("#nb-text").fill("Typed")
    for release in releases:
        release()
    expect(page.locator("#nb-keep")).to_be_visible()
    expect(page.locator("#nb-text")).to_have_value("Typed")
    page.locator("#nb-keep").click()
    expect(page.locator("#nb-keep")).to_have_count(0)

    name = page.locator("#nb-name").inner_text()
    page.route("**/delete?*", lambda route: route.abort())
    page.locator("#nb-text").fill("Typed more")
    page.locator("#nb-name").click()
    with page.expect_event("requestfailed", lambda request: "/delete" in request.url):
        page.locator(f"#nb-list li[data-name='{name}']").get_by_role("button", name="删除").click()
    page.keyboard.press("Escape")
    page.unroute("**/delete?*")
    page.reload()
    expect(page.locator("#nb-text")).to_have_value("Typed more")


def test_a_writer_goes_on_after_an_answer_of_the_server_got_lost(window: Window) -> None:
    page = window.page
    write(page, STORY)
    page.evaluate(
        """() => {
            const send = window.fetch;
            window.fetch = async (url, options) => {
                const answer = await send(url, options);
                if (!String(url?.url ?? url).includes("gradio_api")) return answer;
                await new Promise((go) => setTimeout(go, 200));
                throw new TypeError("the connection was lost");
            };
        }"""
    )
    page.locator("#nb-generate").click()
    text = wait_until_written(page)
    page.reload()
    expect(page.locator("#nb-text")).to_have_value(text)
