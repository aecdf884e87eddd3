"""A folder of weights on the page: loaded in 4 bits, asked, and its settings restored after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from modules.config.yaml_file import YamlFile
from tests.browser.conftest import opened

NAME = "SmolLM2 权重"
LOAD_SECONDS = 120


@pytest.fixture
def place(tmp_path: Path, smollm2_folder: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / NAME).symlink_to(smollm2_folder)
    (tmp_path / "settings.yaml").write_text("# mine\n")
    return tmp_path


def test_a_folder_is_loaded_in_4_bits_and_answers_and_its_settings_are_remembered(
    chromium: Browser, place: Path
) -> None:
    with opened(chromium, place, "load_in_4bit") as window:
        expect(window.page.locator("#tx-loader input")).to_have_value("Transformers")
        expect(window.page.locator("#tx-facts")).to_contain_text("BF16")
        four = window.page.locator("#tx-opt-load_in_4bit")
        four.locator("input").check()
        expect(four.locator(".tx-source")).to_have_text("已修改，未保存")
        expect(window.page.locator("#tx-notes pre")).to_contain_text('"load_in_4bit": true')
        window.page.locator("#tx-save").click()
        expect(four.locator(".tx-source")).to_have_text("已保存")
        window.page.locator("#tx-load").click()
        expect(window.page.locator("#tx-pill .tx-ready")).to_be_visible(timeout=LOAD_SECONDS * 1000)
        expect(window.page.locator("#tx-pill")).to_contain_text("Transformers · 8192")
        window.tab("参数")
        window.page.get_by_role("button", name="截断采样").click()
        expect(window.page.locator("#tx-gen-tfs")).to_be_visible()
        expect(window.page.locator("#tx-gen-truncation_length input")).to_have_value("8192")
        window.set_parameter("max_new_tokens", "12")
        window.ask("Write a very long story about a lighthouse, with many chapters.")
        expect(window.page.locator("#tx-chat-line")).to_contain_text("12 个词符", timeout=60_000)
        expect(window.answers.first).to_contain_text("a")
    assert YamlFile(place / "models" / "config-user.yaml").read() == {
        NAME: {"loader": "Transformers", "load_in_4bit": True}
    }
    with opened(chromium, place, "load_in_4bit", "en", 390) as window:
        expect(window.page.locator("#tx-opt-load_in_4bit input")).to_be_checked()
        expect(window.page.locator("#tx-opt-load_in_4bit .tx-source")).to_have_text("saved")
