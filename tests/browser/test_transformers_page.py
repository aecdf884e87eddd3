"""Folders of weights on the page, by Transformers: quantized to 4 bits during the load, and quantized already.

Loads by every loader are tested in tests/engines/test_works.py, and what the page shows and saves for each loader of
quantized weights in tests/ui/model/test_quantized_folders.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from modules.config.yaml_file import YamlFile
from tests.browser.conftest import opened
from tests.support.quantized_folders import quantized_folder

NAME, QUANTIZED = "SmolLM2 权重", "SmolLM2 权重 GPTQ"
LOAD_MILLISECONDS = 120_000
COMPILE_MILLISECONDS = 600_000  # for the kernel that gptqmodel compiles when it is used for the first time


@pytest.fixture
def folder(tmp_path: Path, shallow_folder: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / NAME).symlink_to(shallow_folder)
    (tmp_path / "models" / QUANTIZED).symlink_to(quantized_folder(shallow_folder, "gptq"))
    (tmp_path / "settings.yaml").write_text("# mine\nmax_new_tokens: 12\n")
    return tmp_path


def test_a_folder_loads_in_4_bits_and_a_quantized_one_reports_its_kernels(chromium: Browser, folder: Path) -> None:
    with opened(chromium, folder, "load_in_4bit") as window:
        page = window.page
        expect(page.locator("#tx-model input")).to_have_value(NAME)
        expect(page.locator("#tx-loader input")).to_have_value("Transformers")
        expect(page.locator("#tx-facts")).to_contain_text("BF16")
        four_bit = page.locator("#tx-opt-load_in_4bit")
        four_bit.locator("input").check()
        expect(four_bit.locator(".tx-source")).to_have_text("已修改，未保存")
        expect(page.locator("#tx-notes pre")).to_contain_text('"load_in_4bit": true')
        page.locator("#tx-save").click()
        expect(four_bit.locator(".tx-source")).to_have_text("已保存")
        page.locator("#tx-load").click()
        ready = page.locator("#tx-pill .tx-ready")
        expect(ready).to_contain_text("Transformers · 8192", timeout=LOAD_MILLISECONDS)
        window.tab("参数")
        page.get_by_role("button", name="截断采样").click()
        expect(page.locator("#tx-gen-tfs")).to_be_visible()
        expect(page.locator("#tx-gen-truncation_length input")).to_have_value("8192")
        window.ask("Write a very long story about a lighthouse, with many chapters.")
        expect(window.facts.last).to_contain_text("12 个词符", timeout=60_000)
        expect(window.answers.first).not_to_be_empty()
        assert YamlFile(folder / "models" / "config-user.yaml").read() == {
            NAME: {"loader": "Transformers", "load_in_4bit": True}
        }

        window.tab("模型")
        window.pick(QUANTIZED)
        window.choose("tx-loader", "Transformers")
        expect(page.locator("#tx-opt-load_in_4bit input")).not_to_be_checked()
        page.locator("#tx-load").click()
        expect(page.locator("#tx-status")).to_contain_text("正在准备计算内核", timeout=LOAD_MILLISECONDS)
        expect(ready).to_have_attribute("title", QUANTIZED, timeout=COMPILE_MILLISECONDS)
        window.pick(NAME)
        expect(page.locator("#tx-opt-load_in_4bit input")).to_be_checked()
        expect(four_bit.locator(".tx-source")).to_have_text("已保存")
