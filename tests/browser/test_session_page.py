"""The Session page in a browser: the look applies at once, defaults are saved, and the server restarts from the page.

What the cards show, save and refuse is tested in tests/ui/session.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from modules.core.paths import ROOT
from tests.browser.conftest import Server, Window
from tests.browser.test_shell_page import SMALL, check_accessibility

THEMES = {"深色": True, "浅色": False}


def font_size(page: Page, selector: str) -> float:
    return float(page.locator(selector).first.evaluate("(one) => parseFloat(getComputedStyle(one).fontSize)"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "settings.yaml").write_text("# mine\nfont_size: large\n")
    return tmp_path


def test_the_look_applies_at_once_and_defaults_are_saved_as_differences(chromium: Browser, folder: Path) -> None:
    server = Server(folder, "--settings", str(folder / "settings.yaml"))
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        window = stack.enter_context(contextlib.closing(Window(chromium, server.url, "zh", (1440, 900))))
        page = window.page
        window.tab("会话")
        look, settings = page.locator("#tx-s-look"), page.locator("#tx-s-settings")
        expect(look.get_by_label("大", exact=True)).to_be_checked()
        for name, dark in THEMES.items():
            look.get_by_label(name, exact=True).check()
            assert page.evaluate("document.body.classList.contains('dark')") is dark
        large, field = font_size(page, "#tx-s-look h2"), font_size(page, "#tx-destinations a")
        look.get_by_label("特大", exact=True).check()
        assert font_size(page, "#tx-s-look h2") > large and font_size(page, "#tx-destinations a") > field
        page.reload()
        expect(look.get_by_label("特大", exact=True)).to_be_checked(timeout=30_000)

        settings.get_by_role("searchbox").fill("max_new_tokens")
        settings.get_by_label("最多新词符数").fill("77")
        settings.get_by_role("button", name="将 UI 默认设置保存到 settings.yaml (1)").click()
        expect(settings.get_by_role("status").first).to_contain_text("max_new_tokens: 77")
        assert (folder / "settings.yaml").read_text() == "# mine\nfont_size: large\nmax_new_tokens: 77\n"
        check_accessibility(page)
        settings.get_by_role("button", name="撤销上次保存").click()
        expect(settings.get_by_role("status").first).to_contain_text("已撤销")
        assert (folder / "settings.yaml").read_text() == "# mine\nfont_size: large\n"

        settings.get_by_label("最多新词符数").fill("88")
        window.tab("聊天")
        window.tab("会话")
        expect(settings).not_to_contain_text("已撤销")  # the page has been drawn again
        expect(settings.get_by_label("最多新词符数")).to_have_value("88")
        settings.get_by_role("button", name="放弃更改").click()
        expect(settings.get_by_role("button", name="将 UI 默认设置保存到 settings.yaml")).to_be_disabled()
        expect(settings.get_by_label("最多新词符数")).to_have_value("512")

        settings.get_by_role("searchbox").fill("do_sample")
        box = settings.locator("[name=do_sample]")
        checked = box.evaluate("(one) => getComputedStyle(one).backgroundColor")
        box.uncheck()
        expect(box).not_to_have_css("background-color", checked)  # the white tick alone is not seen
        box.check()

        look.get_by_label("English", exact=True).check()
        expect(page.get_by_role("heading", name="Appearance")).to_be_visible(timeout=30_000)
        expect(look.get_by_label("Very large")).to_be_checked()
        assert page.url.endswith("/en/#session")


def test_flags_are_saved_and_the_server_restarts_with_them_on_a_phone(
    chromium: Browser, folder: Path, whole_program: None
) -> None:
    project = folder / "project"
    project.mkdir()
    shutil.copy(ROOT / "server.py", project)
    (project / "modules").symlink_to(ROOT / "modules")
    program = (sys.executable, str(project / "server.py"))
    server = Server(folder, "--settings", str(folder / "settings.yaml"), program=program)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        window = stack.enter_context(contextlib.closing(Window(chromium, server.url, "en", (390, 844), "dark")))
        page = window.page
        window.tab("Session")
        flags = page.locator("#tx-s-flags")
        editor = flags.get_by_role("textbox")
        editor.fill("# mine\n--lissten")
        flags.get_by_role("button", name="Check and save").click()
        expect(flags.get_by_role("alert")).to_contain_text("line 2: There is no option '--lissten'")
        expect(editor).to_have_value("# mine\n--lissten")
        editor.fill("# mine\n--api")
        flags.get_by_role("button", name="Check and save").click()
        expect(flags).to_contain_text("--api not set → true")
        assert (project / "CMD_FLAGS.txt").read_text() == "# mine\n--api\n"

        expect(page.locator("#tx-s-copy-report")).to_be_visible(timeout=30_000)
        page.evaluate("for (const fold of document.querySelectorAll('.tx-s details')) fold.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate(SMALL, 32) == []
        check_accessibility(page)

        before = page.evaluate("fetch('/session/process').then((answer) => answer.text())")
        flags.get_by_role("button", name="Restart…").click()
        flags.get_by_role("alert").get_by_role("button", name="Restart", exact=True).click()
        expect(flags).to_contain_text("Restarting…")
        expect(flags.get_by_role("button", name="Restart…")).to_be_visible(timeout=60_000)
        assert server.process.poll() is None
        assert page.evaluate("fetch('/session/process').then((answer) => answer.text())") != before
        with urllib.request.urlopen(f"{server.url}/v1/models") as answer:
            assert answer.status == 200
