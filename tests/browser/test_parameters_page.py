"""The Parameters page: presets, marks at the fields, what survives a reload, and the effect of the samplers.

The handlers are tested in tests/ui/parameters.
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
    """Yield a new window on the Parameters page."""
    with contextlib.closing(Window(chromium, server.url, language, (width, 900))) as window:
        window.tab("参数" if language == "zh" else "Parameters")
        expect(window.page.locator("#tx-gen-temperature")).to_be_visible()
        window.page.wait_for_timeout(600)  # the fields are set once more after they have been mounted
        yield window


def test_a_preset_is_changed_saved_undone_and_all_values_survive_a_reload(chromium: Browser, server: Server) -> None:
    with opened(chromium, server, "zh") as window:
        page, line = window.page, window.page.locator("#tx-preset-line")
        temperature, length = page.locator("#tx-gen-temperature"), page.locator("#tx-gen-max_new_tokens")
        field = temperature.locator("input[type=number]")
        field.fill("1.3")
        page.locator("#tx-preset-name input").fill(NAME)
        page.locator("#tx-preset-save").click()
        expect(line).to_contain_text(f"已保存预设 {NAME}")
        assert YamlFile(ROOT / "presets" / f"{NAME}.yaml").read() == {"temperature": 1.3, "min_p": 0.05}
        assert YamlFile(server.models.parent / "settings.yaml").read() == {"preset": NAME}

        field.fill("0.4")
        expect(temperature.locator(".tx-source")).to_have_text("已改")
        window.choose("tx-preset", "Deterministic")
        expect(field).to_have_value("0")
        line.locator("[data-undo]").click()
        expect(field).to_have_value("0.4")
        expect(page.locator("#tx-preset input")).to_have_value(NAME)
        temperature.get_by_role("button", name=f"恢复预设 {NAME} 的值：1.3").click()
        expect(field).to_have_value("1.3")
        expect(temperature.locator(".tx-source")).to_have_count(0)

        length.locator("input").fill("-5")
        expect(length.locator("input")).to_have_attribute("aria-invalid", "true")
        expect(length.locator(".tx-error")).to_have_text("请输入 0 到 16777216 之间的整数。")
        length.locator("input").fill("77")
        expect(length.locator(".tx-error")).to_have_count(0)
        page.locator("#tx-gen-group-constraints > .label-wrap").click()
        window.choose("tx-grammar-file", "list")
        expect(page.locator("#tx-grammar-name input")).to_have_value("list")
        page.wait_for_function("JSON.parse(localStorage['tx-kept']).grammar_string?.value.includes('item ::=')")

        window.open("/en/")
        window.language = "en"
        window.tab("Parameters")
        expect(page.locator("#tx-preset input")).to_have_value(NAME)
        expect(length.locator("input")).to_have_value("77")
        expect(page.locator("#tx-gen-grammar_string")).to_be_visible()
        page.locator("#tx-preset-delete").click()
        expect(line).to_contain_text(f"Deleted the preset {NAME}")
        line.locator("[data-undo]").click()
        expect(page.locator("#tx-preset input")).to_have_value(NAME)
        assert (ROOT / "presets" / f"{NAME}.yaml").exists()


def test_the_effect_of_a_sampler_on_the_last_reply_is_shown_beside_the_chat(chromium: Browser, server: Server) -> None:
    with opened(chromium, server, "en", 390) as window:
        page = window.page
        page.locator("#tx-params").get_by_role("button", name="Truncation").click()
        tail_free = page.locator("#tx-gen-tfs")
        expect(tail_free).to_be_visible()
        tail_free.locator("input[type=number]").fill("0.5")
        window.load("SmolLM2-135M-Instruct.Q4_1.gguf", n_ctx="1024")
        window.loaded()
        window.set_parameter("temperature", "0")
        window.set_parameter("max_new_tokens", "8")
        window.tab("Parameters")
        expect(tail_free).to_be_hidden()  # and it is not sent
        expect(page.locator("#tx-gen-unsupported summary:visible")).to_have_text(
            "15 parameters are not supported by llama.cpp"
        )
        window.ask("Tell me about the sea.")
        window.wait_for_answer()
        expect(window.facts.last).to_contain_text("8 tokens")

        page.locator("#tx-toggle-parameters").click()
        effect = page.locator("#tx-effect")
        effect.locator("> summary").click()
        rows = effect.locator("tbody tr")
        expect(rows).to_have_count(20)
        expect(rows.first).to_contain_text("100%")  # greedy
        expect(rows.first).to_contain_text("token of the reply")
        expect(effect.locator(".tx-effect-cut")).to_have_count(19)
        for key, value in {"min_p": "0", "temperature": "1"}.items():
            page.locator(f"#tx-gen-{key} input[type=number]").fill(value)
        expect(effect.locator(".tx-effect-cut")).to_have_count(0)
        first = rows.first.inner_text()
        for word in (4, 2):  # the second click comes before the answer to the first one
            effect.locator(f"[data-at='{word}']").click()
        expect(rows.first).not_to_have_text(first)
        expect(effect).to_have_attribute("aria-busy", "false")
        expect(effect.get_by_role("slider")).to_have_value("2")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
