"""Changed code of a model on the page: the load is refused until the user agrees to the changed files by a button.

What is refused and remembered is tested in tests/planning/test_code_consent.py.
"""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from modules.app import App
from modules.config import flags
from tests.browser.conftest import opened
from tests.support.own_code import own_model


def test_changed_code_is_listed_and_runs_once_the_owner_agrees(
    chromium: Browser, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = own_model(tmp_path / "models" / "own", tiny_folder)
    (tmp_path / "settings.yaml").write_text("# mine\n")
    arguments = ("--model-dir", str(folder.parent), "--settings", str(tmp_path / "settings.yaml"))
    app = App(flags.parse([*arguments, "--trust-remote-code"]))
    app.consent.agree(app.record("own"))
    app.downloads.close()
    (folder / "own.py").write_text((folder / "own.py").read_text() + "# another line\n")
    (folder / "more.py").write_text("")
    with opened(chromium, tmp_path, "load_in_4bit", "zh", 1440, "--trust-remote-code") as window:
        page = window.page
        page.locator("#tx-load").click()
        expect(page.locator("#tx-status")).to_contain_text("own.py (已更改")
        expect(page.locator("#tx-status")).to_contain_text("more.py (新增")
        expect(page.locator("#tx-pill .tx-empty")).to_be_visible()
        agree = page.get_by_role("button", name="我已检查这些文件，信任其当前内容")
        agree.click()
        window.loaded(120)
        expect(agree).to_be_hidden()
