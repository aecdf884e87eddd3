"""LoRAs on the page: two are applied and removed and change the answer; a refusal; saved with the model.

That saved LoRAs are applied after a restart is tested in tests/lora/test_manager.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Window, opened
from tests.support.lora_files import LAYER, peft
from tests.support.trained_loras import LESSONS


@pytest.fixture
def folder(tmp_path: Path, smollm2: Path, loras_folder: Path) -> Path:
    """A folder with the demo model, two LoRAs for it and one for a wider model. Answers are the likeliest."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / smollm2.name).symlink_to(smollm2)
    shutil.copytree(loras_folder, tmp_path / "loras")
    peft(
        tmp_path / "loras" / "wide",
        {LAYER + "q_proj.lora_A.weight": (4, 1024), LAYER + "q_proj.lora_B.weight": (1024, 4)},
    )
    (tmp_path / "settings.yaml").write_text("temperature: 0\nmax_new_tokens: 16\n")
    return tmp_path


def choose(window: Window, *names: str) -> None:
    for name in names:
        window.page.locator("#tx-lora input").click()
        window.page.locator("[role=option]").filter(has_text=name).click()
        expect(window.page.locator(f'#tx-lora-rows [data-lora="{name}"]')).to_be_visible()
    window.page.keyboard.press("Escape")


def answer(window: Window, lora: str) -> str:
    """Return the answer, in a new chat, to the beginning of the text that `lora` was trained on."""
    window.ask(LESSONS[lora].beginning)
    expect(window.answers).to_have_count(1)
    window.wait_for_answer()
    text = window.answers.last.inner_text()
    window.new_chat()
    return text


def test_two_loras_change_the_answer_while_they_are_applied(chromium: Browser, folder: Path) -> None:
    nothing_applied = "未应用 LoRA"
    with opened(chromium, folder, "n_ctx", "zh", 400, "--lora-dir", str(folder / "loras")) as window:
        page, status = window.page, window.page.locator("#tx-lora-status")
        page.locator("#tx-load").click()
        window.loaded()
        expect(status).to_contain_text(nothing_applied)
        alone = {lora: answer(window, lora) for lora in LESSONS}
        window.tab("模型")
        choose(window, *LESSONS)
        page.locator("#tx-lora-apply").click()
        expect(status).to_contain_text("已应用", timeout=60_000)  # two LoRAs are converted first
        expect(status.locator("li")).to_have_count(2)
        page.screenshot(path=folder / "loras.png", full_page=True)
        for lora, lesson in LESSONS.items():
            assert lesson.words in answer(window, lora)

        window.tab("模型")
        choose(window, "wide")
        page.locator("#tx-lora-apply").click()
        expect(status.locator(".tx-alert")).to_contain_text("不匹配")
        expect(status.locator("li")).to_have_count(2)

        page.locator("#tx-lora-remove").click()
        expect(status).to_contain_text(nothing_applied)
        expect(page.locator("#tx-lora-rows [data-lora]")).to_have_count(0)
        assert {lora: answer(window, lora) for lora in LESSONS} == alone

        window.tab("模型")
        choose(window, "green")
        page.locator('#tx-lora-rows input[type="number"]').fill("0.75")
        page.locator("#tx-lora-apply").click()
        expect(status.locator("li")).to_contain_text("× 0.75")
        page.locator("#tx-save").click()
        expect(page.locator("#tx-status")).to_contain_text("已将")
        page.locator("#tx-reload").click()
        expect(page.locator("#tx-pill .tx-loading")).to_be_visible()
        window.loaded()
        expect(status.locator("li")).to_contain_text("green × 0.75")
        window.open("/")
        window.tab("模型")
        expect(page.locator('#tx-lora-rows input[type="number"]')).to_have_value("0.75")
        assert LESSONS["green"].words in answer(window, "green")
