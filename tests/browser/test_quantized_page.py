"""Quantized folders on the page, by each loader for them: select, set, save, load, ask, unload, and restart."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from modules.config.yaml_file import YamlFile
from modules.loaders.registry import LOADERS
from tests.browser.conftest import Window, opened
from tests.support.exl2_folder import exl2_folder
from tests.support.exllamav2_worker import STANDIN
from tests.support.quantized_folders import quantized_folder

LOAD_SECONDS = 600  # for a kernel that is compiled; all else takes seconds
ANSWER_SECONDS = 120


@dataclass(frozen=True)
class Case:
    """`option` is changed to `value`; the pill then tells of a context of `context` tokens."""

    loader: str
    model: str
    option: str
    value: str
    context: int
    said: str


MADE_WITH = "制作该模型所用的软件包"
CASES = [
    Case("Transformers", "GPTQ", "bf16", "", 8192, "通过 gptqmodel 读取"),
    Case("AutoGPTQ", "GPTQ", "disable_exllama", "", 8192, MADE_WITH),
    Case("AutoAWQ", "AWQ", "max_seq_len", "1024", 1024, MADE_WITH),
    Case("ExLlamav2_HF", "GPTQ", "max_seq_len", "1024", 1024, "CFG"),
    Case("ExLlamav2", "EXL2", "max_seq_len", "1024", 1024, "自带采样器"),
]
SHOWN_FIRST = LOADERS["AutoAWQ"].options[0]


@pytest.fixture
def place(tmp_path: Path, smollm2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of each format; answers are short and the likeliest. ExLlamaV2 finds its stand-in."""
    (tmp_path / "models").mkdir()
    for name, folder in (
        ("GPTQ", quantized_folder(smollm2_folder, "gptq")),
        ("AWQ", quantized_folder(smollm2_folder, "awq")),
        ("EXL2", exl2_folder(smollm2_folder)),
    ):
        (tmp_path / "models" / name).symlink_to(folder)
    (tmp_path / "settings.yaml").write_text("temperature: 0\nmax_new_tokens: 12\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(STANDIN), os.environ.get("PYTHONPATH", ""))))
    return tmp_path


def change(window: Window, case: Case) -> None:
    """Folded groups open for what the filter finds."""
    window.page.locator("#tx-filter input").fill(case.option)
    field = window.page.locator(f"#tx-opt-{case.option}")
    expect(field).to_be_visible()
    if case.value:
        field.locator("input[type=number]").first.fill(case.value)
        field.locator("input[type=number]").first.blur()
    else:
        field.locator("input").check()


def test_each_loader_loads_its_format_and_keeps_settings_across_a_restart(
    chromium: Browser, place: Path, subtests: pytest.Subtests
) -> None:
    with opened(chromium, place, SHOWN_FIRST, "zh") as window:
        for case in CASES:
            with subtests.test(case.loader):
                use(window, case)
                saved = YamlFile(place / "models" / "config-user.yaml").read()[case.model]
                assert saved["loader"] == case.loader and case.option in saved
    with opened(chromium, place, SHOWN_FIRST, "en", 390) as window:
        for case in {case.model: case for case in CASES}.values():  # the last one saved for each model
            with subtests.test(case.model):
                window.pick(case.model)
                expect(window.page.locator("#tx-loader input")).to_have_value(case.loader)
                window.page.locator("#tx-filter input").fill(case.option)
                expect(window.page.locator(f"#tx-opt-{case.option} .tx-source")).to_have_text("saved")


def use(window: Window, case: Case) -> None:
    """Pick the model and the loader, change an option, save, load, ask, unload."""
    window.tab("模型")
    window.pick(case.model)
    window.choose("tx-loader", case.loader)
    expect(window.page.locator("#tx-notes")).to_contain_text(case.said)
    change(window, case)
    source = window.page.locator(f"#tx-opt-{case.option} .tx-source")
    expect(source).to_have_text("已修改，未保存")
    window.page.locator("#tx-save").click()
    expect(source).to_have_text("已保存")
    window.page.locator("#tx-load").click()
    if case.loader == "Transformers":
        expect(window.page.locator("#tx-status")).to_contain_text("正在准备计算内核")
    ready = window.page.locator("#tx-pill .tx-ready", has_text=f"{case.loader} · {case.context}")
    expect(ready).to_be_visible(timeout=LOAD_SECONDS * 1000)
    window.ask("What is the capital of France?")
    expect(window.answers.first).to_contain_text("Paris", timeout=ANSWER_SECONDS * 1000)
    expect(window.page.locator("#tx-chat-line")).to_contain_text("词符/秒", timeout=ANSWER_SECONDS * 1000)
    window.page.locator("#tx-new").click()
    expect(window.answers).to_have_count(0)
    window.tab("模型")
    window.page.locator("#tx-unload").click()
    expect(window.page.locator("#tx-pill .tx-empty")).to_be_visible()
