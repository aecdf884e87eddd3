"""Changed code of a model on the page: refused with its name, agreed to by a button, loaded."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.conftest import opened
from tests.support.own_code import own_model


def test_changed_code_is_listed_and_runs_once_the_owner_agrees(
    chromium: Browser, tmp_path: Path, smollm2_folder: Path
) -> None:
    folder = own_model(tmp_path / "models" / "own", smollm2_folder)
    (tmp_path / "settings.yaml").write_text("# mine\n")
    with opened(chromium, tmp_path, "load_in_4bit", "zh", 1440, "--trust-remote-code") as window:
        page = window.page
        page.locator("#tx-load").click()
        window.loaded()
        page.locator("#tx-unload").click()
        expect(page.locator("#tx-pill .tx-empty")).to_be_visible()
        (folder / "own.py").write_text((folder / "own.py").read_text() + "# another line\n")
        (folder / "more.py").write_text("")
        page.locator("#tx-load").click()
        expect(page.locator("#tx-status")).to_contain_text("own.py (已更改")
        expect(page.locator("#tx-status")).to_contain_text("more.py (新增")
        expect(page.locator("#tx-pill .tx-empty")).to_be_visible()
        agree = page.get_by_role("button", name="我已检查这些文件，信任其当前内容")
        agree.click()
        window.loaded()
        expect(agree).to_be_hidden()
        page.locator("#tx-reload").click()
        expect(page.locator("#tx-pill .tx-loading")).to_be_visible()
        window.loaded()
