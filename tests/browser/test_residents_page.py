"""Several models on the page, and pictures: what only a browser can show of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Server, Window, kept_open
from tests.browser.test_shell_page import check_accessibility
from tests.support.pictures import data_uri, picture

FIRST, SECOND, THIRD = "first.gguf", "second.gguf", "third.gguf"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Server]:
    """A server with two of three models in memory; the page has chosen the second one."""
    folder = tmp_path_factory.mktemp("residents page")
    (folder / "models").mkdir()
    for name in (FIRST, SECOND, THIRD):
        (folder / "models" / name).symlink_to(smollm2)
    running = Server(folder, "--api", "--n_ctx", "512")
    yield running
    running.stop()


@pytest.fixture
def window(chromium: Browser, server: Server) -> Iterator[Window]:
    with kept_open(chromium, server, "en") as (window, _):
        yield window


def post(window: Window, path: str, body: object) -> dict[str, object]:
    answer = window.page.request.post(
        window.url + path, data=json.dumps(body), headers={"Origin": window.url, "Content-Type": "application/json"}
    )
    assert answer.ok, answer.text()
    found: dict[str, object] = answer.json()
    return found


def row(window: Window, name: str):  # type: ignore[no-untyped-def]
    return window.page.locator(f'.tx-resident[data-name="{name}"]')


def test_models_in_memory_are_chosen_kept_and_unloaded_and_changes_elsewhere_are_shown(window: Window) -> None:
    page = window.page
    window.tab("Model")
    for name in (FIRST, SECOND):
        post(window, "/v1/internal/model/load", {"model_name": name})
    expect(row(window, SECOND)).to_have_attribute("aria-current", "true")
    expect(row(window, FIRST)).to_contain_text("Ready · llama.cpp")
    page.keyboard.press("Alt+m")
    menu = page.locator("#tx-models-menu")
    expect(menu.locator(".tx-model")).to_have_count(3)
    check_accessibility(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")  # the model in use comes first
    expect(page.locator("#tx-pill")).to_contain_text(FIRST)
    expect(page.locator("#tx-facts [data-model]")).to_have_attribute("data-model", FIRST)
    page.keyboard.press("Escape")
    row(window, SECOND).get_by_role("button", name="Keep in memory").click()
    expect(row(window, SECOND).get_by_role("button", name="Keep in memory")).to_have_attribute("aria-pressed", "true")
    row(window, FIRST).get_by_role("button", name="Unload").click()
    expect(row(window, FIRST)).to_have_count(0)
    expect(page.locator("#tx-pill .tx-empty")).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1440, "height": 900})
    post(window, "/residents/unload", {"name": SECOND})
    expect(page.locator(".tx-resident")).to_have_count(0)


def test_pictures_are_attached_by_button_paste_and_drop_and_shown_in_their_message(window: Window) -> None:
    page, data = window.page, picture(width=300, height=200)
    chat = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_uri(data)}}]}]}
    id: str = post(window, "/chat/import?name=a.json", chat)["ids"][0]  # type: ignore[index]
    page.goto(f"{window.url}/en/#chat/{id}")
    shown = page.locator("#tx-messages .tx-picture img")
    expect(shown).to_be_visible()
    page.wait_for_function("document.querySelector('.tx-picture img').naturalWidth === 300")
    page.locator("#tx-composer input[type=file]").set_input_files(
        {"name": "button.png", "mimeType": "image/png", "buffer": data}
    )
    attached = page.locator("#tx-attached li")
    expect(attached).to_have_count(1)
    for number, (event, name) in enumerate((("paste", "pasted.png"), ("drop", "dropped.png"))):
        other = base64.b64encode(picture(color=(number, 0, 0))).decode()
        page.evaluate(SEND_FILE, [event, name, other])
        expect(attached).to_have_count(number + 2)
    assert attached.locator("img").evaluate_all("(all) => all.every((one) => one.src.startsWith('blob:'))")
    attached.first.get_by_role("button").click()
    expect(attached).to_have_text(["pasted.png", "dropped.png"])
    post(window, "/v1/internal/model/load", {"model_name": THIRD})
    page.locator("#tx-input").press("Enter")
    expect(page.locator("#tx-chat-line")).to_contain_text(f"{THIRD} cannot read images")
    expect(attached).to_have_count(2)


SEND_FILE = """([kind, name, data]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name, { type: "image/png" }));
  const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: files, bubbles: true })
    : new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true });
  document.querySelector("#tx-input").dispatchEvent(event);
}"""
