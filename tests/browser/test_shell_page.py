"""The frame of the page: destinations, drawers, the menu of models, keys, focus, contrast and sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, Window, kept_open

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
PAGES = ("chat", "notebook", "training", "parameters", "model", "session")


def go_to(page: Page, destination: str) -> None:
    page.evaluate("id => { location.hash = id }", destination)
    expect(page.locator(f"#tx-page-{destination}")).to_be_visible()


def test_destinations_have_addresses_and_the_language_link_keeps_them(window: Window) -> None:
    page = window.page
    window.tab("模型")
    expect(page.locator("#tx-load")).to_be_visible()
    assert page.url.endswith("/zh/#model")
    expect(page.locator("h1")).to_have_text("模型")
    page.go_back()
    expect(page.locator("#tx-page-chat")).to_be_visible()
    expect(page.locator("#tx-load")).to_be_hidden()
    for broken in ("#chat/%E0", "#no-such-page/1", "#"):
        page.evaluate("hash => { location.hash = hash }", broken)
        expect(page.locator("h1")).to_have_text("新对话")
    page.goto(f"{window.url}/zh/#parameters")
    page.reload()
    expect(page.locator("#tx-gen-temperature")).to_be_visible(timeout=30_000)
    page.locator("#tx-language").click()
    expect(page.locator("h1")).to_have_text("Parameters", timeout=30_000)
    assert page.url.endswith("/en/#parameters")


def test_the_parameters_are_a_drawer_beside_the_chat_with_the_same_values(shared_window: Window) -> None:
    window, page = shared_window, shared_window.page
    toggle, field = page.locator("#tx-toggle-parameters"), page.locator("#tx-gen-max_new_tokens input")
    toggle.click()
    expect(field).to_be_visible()
    expect(page.locator("#tx-page-chat")).to_be_visible()
    chat, drawer = page.locator("#tx-page-chat").bounding_box(), page.locator("#tx-page-parameters").bounding_box()
    assert chat and drawer and chat["x"] + chat["width"] <= drawer["x"] + 1
    page.wait_for_timeout(600)
    field.fill("123")
    field.blur()
    window.tab("参数")
    expect(field).to_have_value("123")
    window.tab("聊天")
    expect(field).to_be_visible()
    page.keyboard.press("Control+s")
    expect(field).to_be_hidden()


def test_a_model_is_loaded_and_unloaded_from_the_header(shared_window: Window) -> None:
    page = shared_window.page
    page.locator("#tx-pill button").click()
    menu = page.locator("#tx-models-menu")
    menu.get_by_role("searchbox").fill("smol")
    menu.get_by_role("button", name=MODEL).click()
    shared_window.loaded()
    expect(menu).to_contain_text("llama.cpp")
    menu.get_by_role("button", name="卸载").click()
    expect(page.locator("#tx-pill .tx-empty")).to_be_visible()
    page.keyboard.press("Escape")
    expect(menu).to_have_count(0)
    expect(page.locator("#tx-pill button")).to_be_focused()
    shared_window.tab("模型")
    expect(page.locator("#tx-model input")).to_have_value(MODEL)


def test_a_load_that_is_refused_before_it_begins_is_explained_wherever_one_is(shared_window: Window) -> None:
    shared_window.tab("聊天")
    ask = 'document.dispatchEvent(new CustomEvent("tx-model", { detail: { action: "load", name: "truncated.gguf" } }))'
    for count in (1, 2):  # as the menu in the header does, and "Load … and send" in the chat
        shared_window.page.evaluate(ask)
        expect(shared_window.page.locator(".tx-toast").filter(has_text="truncated.gguf")).to_have_count(count)


def test_no_state_of_a_model_is_shown_before_the_server_has_told_it(shared_window: Window) -> None:
    page, pill = shared_window.page.locator("#tx-page"), shared_window.page.locator("#tx-pill")
    expect(pill).to_be_visible()
    shown = page.get_attribute("class")
    page.evaluate("page => { page.className = '' }")
    expect(pill).to_be_hidden()
    page.evaluate("(page, shown) => { page.className = shown }", shown)
    expect(pill).to_be_visible()


def test_a_conversation_keeps_its_place_and_what_was_typed_while_another_page_is_shown(shared_window: Window) -> None:
    window, page = shared_window, shared_window.page
    page.set_viewport_size({"width": 1200, "height": 500})
    open_conversation(window)
    transcript, address = page.locator("#tx-transcript"), page.url
    transcript.evaluate("(scroller) => { scroller.scrollTop = 50 }")
    page.locator("#tx-input").fill("half a sentence")
    page.locator("#tx-toggle-parameters").click()
    expect(page.locator("#tx-page-parameters")).to_be_visible()
    window.tab("模型")
    expect(page.locator("#tx-load")).to_be_visible()
    window.tab("聊天")
    expect(page).to_have_url(address)
    expect(page.locator("#tx-input")).to_have_value("half a sentence")
    assert transcript.evaluate("(scroller) => scroller.scrollTop") == 50
    page.set_viewport_size({"width": 1440, "height": 900})
    page.keyboard.press("Control+s")
    expect(page.locator("#tx-page-parameters")).to_be_hidden()


def test_keys_are_listed_and_do_nothing_while_a_text_is_composed(shared_window: Window) -> None:
    page = shared_window.page
    page.locator("#tx-sidebar .tx-brand").focus()
    page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="键盘快捷键")
    expect(sheet).to_contain_text("Ctrl K")
    page.keyboard.press("Escape")
    expect(sheet).to_have_count(0)
    page.keyboard.press("Control+k")
    expect(page.locator("#tx-search")).to_be_focused()
    page.keyboard.press("?")
    expect(sheet).to_have_count(0)
    page.locator("#tx-search").fill("")
    page.locator("#tx-search").blur()
    composing = (
        "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '?', bubbles: true, isComposing: true}))"
    )
    page.evaluate(composing)
    expect(sheet).to_have_count(0)


def test_the_sidebar_collapses_and_stays_so(shared_window: Window) -> None:
    window, page = shared_window, shared_window.page
    page.locator("#tx-close-menu").click()
    expect(page.locator("#tx-sidebar")).to_be_hidden()
    expect(page.locator("#tx-open-menu")).to_be_focused()
    window.open("/")
    expect(page.locator("#tx-sidebar")).to_be_hidden()
    page.locator("#tx-open-menu").click()
    expect(page.locator("#tx-sidebar")).to_be_visible()


def test_names_for_screen_readers_are_in_the_language_of_the_page(shared_window: Window) -> None:
    window, page = shared_window, shared_window.page
    window.tab("模型")
    expect(page.locator("#tx-load")).to_be_visible()
    page.wait_for_timeout(300)
    names = page.evaluate("[...document.querySelectorAll('[aria-label], [title]')].map((e) => e.ariaLabel || e.title)")
    sentences = [
        name for name in names if re.search(r"[A-Za-z]{3,} [a-z]{2,} ", name) and not re.search("[一-鿿]", name)
    ]
    assert sentences == []
    expect(page.locator("main, [role=main]")).to_have_count(1)
    expect(page.locator("h1")).to_have_count(1)


RING = """() => {
  const focused = document.activeElement;
  const ringed = [focused, focused.parentElement, focused.parentElement?.parentElement].some((element) => {
    const { outlineStyle, outlineWidth, boxShadow = "" } = element ? getComputedStyle(element) : {};
    return (outlineStyle === "solid" && parseFloat(outlineWidth) >= 2) || boxShadow.endsWith("0px 0px 0px 2px");
  });
  return [ringed || focused === document.body, focused.outerHTML.slice(0, 100)];
}"""


def test_the_focus_is_visible_wherever_tab_leads(shared_window: Window) -> None:
    page = shared_window.page
    page.locator("#tx-skip").focus()
    page.keyboard.press("Tab")
    expect(page.locator("#tx-sidebar a").first).to_be_focused()  # which the link skips
    for _ in range(25):
        page.keyboard.press("Tab")
        ringed, element = page.evaluate(RING)
        assert ringed, element
    page.locator("#tx-skip").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


@pytest.mark.parametrize(("language", "scheme"), [("zh", "light"), ("en", "dark")])
def test_axe_finds_nothing_serious_on_any_page(chromium: Browser, server: Server, language: str, scheme: str) -> None:
    with kept_open(chromium, server, language, (1440, 900), scheme) as (window, new):
        page = window.page
        if not new:
            window.tab("聊天")
            window.new_chat()
        check_accessibility(page)
        open_conversation(window)
        check_accessibility(page)
        page.locator("#tx-toggle-parameters").click()
        page.locator("#tx-pill button").click()
        expect(page.locator("#tx-models-menu").get_by_role("button", name=MODEL)).to_be_visible()
        check_accessibility(page)
        page.keyboard.press("Escape")
        for destination in PAGES[1:]:
            go_to(page, destination)
            open_groups(page)
            check_accessibility(page)
        page.locator("#tx-show-keys").click()
        check_accessibility(page)
        page.keyboard.press("Escape")


@pytest.fixture
def phone(chromium: Browser, server: Server) -> Iterator[Window]:
    """An English window of a phone that tests pass on to each other, on a new chat."""
    with kept_open(chromium, server, "en", (390, 844)) as (window, new):
        if not new:
            window.new_chat()
        yield window


def test_on_a_phone_the_sidebar_and_the_parameters_are_drawers_that_keep_the_focus(phone: Window) -> None:
    page = phone.page
    expect(page.locator("#tx-sidebar")).to_be_hidden()
    for opener, drawer in (("#tx-open-menu", "#tx-sidebar"), ("#tx-toggle-parameters", "#tx-page-parameters")):
        page.locator(opener).click()
        expect(page.locator(drawer)).to_be_visible()
        page.wait_for_timeout(400)
        inside = f"[document.body, ...document.querySelectorAll('{drawer} *')].includes(document.activeElement)"
        for _ in range(40):
            page.keyboard.press("Tab")
            assert page.evaluate(inside), page.evaluate("document.activeElement.outerHTML")
        page.keyboard.press("Shift+Tab")
        page.locator(f"{drawer} button").first.focus()
        page.keyboard.press("Escape")
        expect(page.locator(drawer)).to_be_hidden()
        expect(page.locator(opener)).to_be_focused()


SMALL = """least => [...document.querySelectorAll("a, button, input, textarea, summary")].filter((element) => {
  const shown = element.checkVisibility({ visibilityProperty: true });
  if (!shown || element.closest("[inert], #tx-skip, .visually-hidden, .tx-body p")) return false;
  const around = { checkbox: "label", combobox: ".wrap:has(> .wrap-inner)" }[element.role ?? element.type];
  const box = ((around && element.closest(around)) ?? element).getBoundingClientRect();
  return box.width > 0 && (box.height < least - 0.5 || box.width < least - 0.5);
}).map((element) => { const { width, height } = element.getBoundingClientRect();
  return `${width.toFixed()}x${height.toFixed()} ${element.outerHTML.slice(0, 120)}`; })"""


def test_on_a_phone_nothing_on_the_other_pages_is_smaller_than_32_pixels(phone: Window) -> None:
    for destination in PAGES[1:]:
        go_to(phone.page, destination)
        open_groups(phone.page)
        assert phone.page.evaluate(SMALL, 32) == []


@pytest.mark.window("zh", 390, 844)
def test_on_a_phone_nothing_in_the_chat_is_smaller_than_44_pixels(window: Window) -> None:
    assert window.page.evaluate(SMALL, 44) == []
    open_conversation(window)
    assert window.page.evaluate(SMALL, 44) == []
    window.page.locator("#tx-open-menu").click()
    assert window.page.evaluate(SMALL, 44) == []


OPEN_GROUPS = """async () => {
  const settled = async () => {
    for (let size = -1, quiet = 0; quiet < 3; quiet = size === document.body.innerHTML.length ? quiet + 1 : 0) {
      size = document.body.innerHTML.length;
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
    await Promise.all(document.getAnimations().map((animation) => animation.finished.catch(() => {})));
  };
  await settled();
  const closed = () => [...document.querySelectorAll("button.label-wrap:not(.open)")]
    .filter((button) => button.checkVisibility());
  closed().forEach((button) => button.click());
  await settled();
}"""


def open_groups(page: Page) -> None:
    """Open all folded groups, once the page no longer changes, and wait until it no longer does."""
    page.evaluate(OPEN_GROUPS)


ANSWER = """Text with **bold**, `code`, [a link](https://example.com) and $x^2$.

> A quotation

| a | b |
|---|--:|
| 1 | 2 |

```python
# a comment
@decorator
def add(a: int, b: str = "x") -> float:
    return a + 1.5 if b else None
```
"""


def open_conversation(window: Window) -> None:
    (id,) = window.import_conversations(["Everything"], ANSWER)
    window.page.evaluate("id => { location.hash = `chat/${id}` }", id)
    expect(window.page.locator("#tx-messages pre").first).to_be_visible()


def check_accessibility(page: Page) -> None:
    """Run axe-core's rules for WCAG 2.2, level AA."""
    levels = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    # Of what is in order, nothing has to be described and sent.
    found = Axe().run(page, options={"runOnly": levels, "resultTypes": ["violations"]}).response["violations"]
    assert [(rule["id"], [node["html"][:150] for node in rule["nodes"][:5]]) for rule in found] == []
