"""The Parameters tab: presets survive a restart, and only parameters that the loader supports are shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from modules.config.presets import Presets
from modules.config.yaml_file import YamlFile
from modules.core.paths import ROOT
from tests.browser.conftest import Server, Window

NAME = "测试 of the page"


@pytest.fixture
def place(tmp_path: Path, smollm2: Path) -> Iterator[Path]:
    """A folder with a model and a settings.yaml; afterwards the preset of the test is gone from `presets/`."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / smollm2.name).symlink_to(smollm2)
    (tmp_path / "settings.yaml").write_text("# mine\n")
    yield tmp_path
    presets = Presets(ROOT / "presets")
    if NAME in presets.names():
        presets.delete(NAME)


def opened(server: Server, chromium: Browser, language: str, width: int = 1440) -> Window:
    window = Window(chromium, server.url, language, (width, 900))
    window.tab("参数" if language == "zh" else "Parameters")
    expect(window.page.locator("#tx-gen-temperature")).to_be_visible()
    return window


def test_a_preset_is_saved_and_comes_back_after_a_restart(chromium: Browser, place: Path) -> None:
    server = Server(place, "--settings", str(place / "settings.yaml"))
    window = opened(server, chromium, "zh")
    window.set_parameter("temperature", "1.3")
    window.set_parameter("top_k", "33")
    window.tab("参数")
    window.page.locator("#tx-preset-name input").fill(NAME)
    window.page.locator("#tx-preset-save").click()
    expect(window.page.locator("#tx-preset-line")).to_contain_text(f"已保存预设 {NAME}")
    expect(window.page.locator("#tx-preset input")).to_have_value(NAME)
    window.close()
    server.stop()
    assert YamlFile(ROOT / "presets" / f"{NAME}.yaml").read() == {"temperature": 1.3, "top_k": 33, "min_p": 0.05}
    assert YamlFile(place / "settings.yaml").read() == {"preset": NAME}

    server = Server(place, "--settings", str(place / "settings.yaml"))
    window = opened(server, chromium, "en", 390)
    expect(window.page.locator("#tx-preset input")).to_have_value(NAME)
    temperature = window.page.locator("#tx-gen-temperature input[type=number]")
    expect(temperature).to_have_value("1.3")
    window.choose("tx-preset", "Deterministic")
    expect(temperature).to_have_value("0")
    window.choose("tx-preset", NAME)
    expect(temperature).to_have_value("1.3")
    window.page.locator("#tx-preset-delete").click()
    expect(window.page.locator("#tx-preset-line")).to_contain_text(f"Deleted the preset {NAME}")
    assert not (ROOT / "presets" / f"{NAME}.yaml").exists()
    window.close()
    server.stop()


def test_parameters_that_the_loader_does_not_support_are_hidden_and_not_sent(chromium: Browser, place: Path) -> None:
    server = Server(place, "--settings", str(place / "settings.yaml"))
    window = opened(server, chromium, "en")
    tab = window.page.locator("#tx-params")
    tab.get_by_role("button", name="Truncation").click()
    tail_free = window.page.locator("#tx-gen-tfs")
    expect(tail_free).to_be_visible()
    tail_free.locator("input[type=number]").fill("0.5")
    tail_free.locator("input[type=number]").blur()
    window.load("SmolLM2-135M-Instruct.Q4_1.gguf", n_ctx="1024")
    window.loaded()
    window.tab("Parameters")
    expect(window.page.locator("#tx-gen-typical_p")).to_be_visible()
    expect(tail_free).to_be_hidden()
    window.set_parameter("max_new_tokens", "5")
    window.ask("Say hi.")
    expect(window.page.locator("#tx-chat-line")).to_contain_text("5 tokens")
    window.close()
    server.stop()
