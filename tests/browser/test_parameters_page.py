"""The Parameters tab: presets are saved, shown in other windows and deleted, and only parameters that the loader
supports are shown.

That a preset is shown after a restart is tested in tests/ui/parameters/test_tab.py.
"""

from __future__ import annotations

import contextlib
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
def server(tmp_path: Path, smollm2: Path) -> Iterator[Server]:
    """A server with one model and a settings.yaml; the preset of the test is deleted from `presets/` at the end."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / smollm2.name).symlink_to(smollm2)
    (tmp_path / "settings.yaml").write_text("# mine\n")
    running = Server(tmp_path, "--settings", str(tmp_path / "settings.yaml"))
    yield running
    running.stop()
    presets = Presets(ROOT / "presets")
    if NAME in presets.names():
        presets.delete(NAME)


@contextlib.contextmanager
def opened(chromium: Browser, server: Server, language: str, width: int = 1440) -> Iterator[Window]:
    """Yield a new window on the Parameters tab."""
    with contextlib.closing(Window(chromium, server.url, language, (width, 900))) as window:
        window.tab("参数" if language == "zh" else "Parameters")
        expect(window.page.locator("#tx-gen-temperature")).to_be_visible()
        yield window


def test_presets_are_saved_and_deleted_and_only_parameters_of_the_loader_are_shown_and_sent(
    chromium: Browser, server: Server
) -> None:
    with opened(chromium, server, "zh", 390) as window:
        window.set_parameter("temperature", "1.3")
        window.set_parameter("top_k", "33")
        window.tab("参数")
        window.page.locator("#tx-preset-name input").fill(NAME)
        window.page.locator("#tx-preset-save").click()
        expect(window.page.locator("#tx-preset-line")).to_contain_text(f"已保存预设 {NAME}")
        expect(window.page.locator("#tx-preset input")).to_have_value(NAME)
    assert YamlFile(ROOT / "presets" / f"{NAME}.yaml").read() == {"temperature": 1.3, "top_k": 33, "min_p": 0.05}
    assert YamlFile(server.models.parent / "settings.yaml").read() == {"preset": NAME}

    with opened(chromium, server, "en") as window:
        page = window.page
        expect(page.locator("#tx-preset input")).to_have_value(NAME)
        temperature = page.locator("#tx-gen-temperature input[type=number]")
        expect(temperature).to_have_value("1.3")
        window.choose("tx-preset", "Deterministic")
        expect(temperature).to_have_value("0")
        window.choose("tx-preset", NAME)
        expect(temperature).to_have_value("1.3")
        page.locator("#tx-preset-delete").click()
        expect(page.locator("#tx-preset-line")).to_contain_text(f"Deleted the preset {NAME}")
        page.locator("#tx-preset-line [data-undo]").click()
        expect(page.locator("#tx-preset input")).to_have_value(NAME)
        assert (ROOT / "presets" / f"{NAME}.yaml").exists()
        page.locator("#tx-preset-delete").click()
        expect(page.locator("#tx-preset-line")).to_contain_text(f"Deleted the preset {NAME}")
        assert not (ROOT / "presets" / f"{NAME}.yaml").exists()

        page.locator("#tx-params").get_by_role("button", name="Truncation").click()
        tail_free = page.locator("#tx-gen-tfs")
        expect(tail_free).to_be_visible()
        tail_free.locator("input[type=number]").fill("0.5")
        tail_free.locator("input[type=number]").blur()
        window.set_parameter("temperature", "0")
        window.load("SmolLM2-135M-Instruct.Q4_1.gguf", n_ctx="1024")
        window.loaded()
        window.tab("Parameters")
        expect(page.locator("#tx-gen-typical_p")).to_be_visible()
        expect(tail_free).to_be_hidden()
        window.set_parameter("max_new_tokens", "5")
        window.ask("Say hi.")
        expect(window.facts.last).to_contain_text("5 tokens")


def test_parameters_that_no_preset_has_survive_a_reload(chromium: Browser, server: Server) -> None:
    with opened(chromium, server, "en") as window:
        window.set_parameter("max_new_tokens", "77")
        window.open("/zh/")
        window.language = "zh"
        window.tab("参数")
        expect(window.page.locator("#tx-gen-max_new_tokens input[type=number]").first).to_have_value("77")
