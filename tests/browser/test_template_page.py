"""The template editor on the page: seen, changed, used at once by the loaded model, deleted and brought back."""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Window, opened

NAME = "model.gguf"


def open_editor(page: Page) -> None:
    page.locator("#tx-template > button").click()
    expect(page.locator("#tx-template-preview pre")).to_be_visible()


def rewrite(page: Page, source: str) -> None:
    """Replace the source as a person does, by keyboard."""
    page.locator("#tx-template-source .cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(source)


def check_sizes(page: Page) -> None:
    """The page is not wider than the screen, and what can be pressed is large enough."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    heights = page.locator("#tx-template .tx-buttons button, #tx-template .tx-template-sample label").evaluate_all(
        "elements => elements.map((element) => element.getBoundingClientRect().height)"
    )
    assert len(heights) == 8 and min(heights) >= (44 if page.viewport_size["width"] < 500 else 32)  # type: ignore[index]


def used_template(window: Window) -> object:
    return window.page.request.get(f"{window.url}/chat/template").json()["template"]


def test_a_template_is_changed_and_used_at_once(chromium: Browser, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "models").mkdir()
    shutil.copy(tiny, tmp_path / "models" / NAME)
    (tmp_path / "settings.yaml").touch()
    with opened(chromium, tmp_path, "n_ctx", "zh", 390) as window:
        page = window.page
        page.locator("#tx-load").click()
        window.loaded()
        open_editor(page)
        expect(page.locator("#tx-template-preview")).to_contain_text("17 × 3 等于多少？")
        expect(page.locator("#tx-template-preview")).to_contain_text("个词符；特殊词符已标出")
        check_sizes(page)
        rewrite(page, "a\n{{ b | }}")
        expect(page.locator("#tx-template-preview")).to_contain_text("第 2 行")
        rewrite(page, "{% for m in messages %}<b>{{ m.content }}{% endfor %}")
        expect(page.locator("#tx-template-preview pre")).to_contain_text("<b>17 × 3 等于多少？")
        page.locator("#tx-template-name input").fill("我的")
        page.locator("#tx-template-use").click()
        expect(page.locator("#tx-template-state")).to_contain_text("指定的模板“我的”")
        assert used_template(window) == {"origin": "chosen", "name": "我的"}

        page.set_viewport_size({"width": 1440, "height": 900})
        window.language, window.size = "en", (1440, 900)
        window.open("/en/")
        window.tab("Model")
        open_editor(page)
        check_sizes(page)
        page.locator("#tx-template-delete").click()
        expect(page.locator("#tx-template-state [role=alert]")).to_contain_text("it cannot be used")
        page.locator("#tx-template-line").get_by_role("button", name="Undo").click()
        expect(page.locator("#tx-template-state")).to_contain_text("which was chosen for it")
        page.locator("#tx-template-use-own").click()
        expect(page.locator("#tx-template-state")).to_contain_text("uses the template in its own files")
        assert used_template(window) == {"origin": "model", "name": ""}
