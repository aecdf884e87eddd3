"""Settings on the Model page: change, save, return, restart; autoload; invalid values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from modules.config.yaml_file import YamlFile
from tests.browser.conftest import Server, Window, kept_open, opened

FIRST, SECOND = "a first.gguf", "模型 [2]+$.gguf"


def make_folder(folder: Path, smollm2: Path) -> Path:
    """Fill `folder` with two models and a settings.yaml."""
    (folder / "models").mkdir()
    for name in (FIRST, SECOND):
        (folder / "models" / name).symlink_to(smollm2)
    (folder / "settings.yaml").write_text("# mine\n")
    return folder


@pytest.fixture
def folder(tmp_path: Path, smollm2: Path) -> Path:
    """A folder for a server of the test's own."""
    return make_folder(tmp_path, smollm2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Server]:
    """The server of the tests that do not restart it."""
    folder = make_folder(tmp_path_factory.mktemp("settings page"), smollm2)
    running = Server(folder, "--settings", str(folder / "settings.yaml"))
    yield running
    running.stop()


@pytest.fixture
def window(chromium: Browser, server: Server) -> Iterator[Window]:
    """An English window on the Model page that tests pass on to each other, with the settings of FIRST."""
    with kept_open(chromium, server, "en") as (window, new):
        window.tab("Model")
        if not new:
            window.page.keyboard.press("Escape")  # an open menu
            window.page.locator("#tx-filter input").fill("")
            choose(window, SECOND, "8192")
            choose(window, FIRST, "8192")
        expect(number(window, "n_ctx")).to_be_visible()
        yield window


def number(window: Window, key: str) -> Locator:
    return window.page.locator(f"#tx-opt-{key} input[type=number]").first


def fill(window: Window, key: str, value: str) -> None:
    number(window, key).fill(value)
    number(window, key).blur()


def source(window: Window, key: str) -> Locator:
    return window.page.locator(f"#tx-opt-{key} .tx-source")


def choose(window: Window, name: str, n_ctx: str) -> None:
    window.pick(name)
    expect(number(window, "n_ctx")).to_have_value(n_ctx)


def test_saved_settings_and_autoload_return_after_another_model_and_a_restart(chromium: Browser, folder: Path) -> None:
    with opened(chromium, folder, "n_ctx") as window:
        page = window.page
        choose(window, SECOND, "8192")
        expect(source(window, "n_ctx")).to_have_text("来自模型文件")
        fill(window, "n_ctx", "2048")
        expect(source(window, "n_ctx")).to_have_text("已修改，未保存")
        page.get_by_role("button", name="内存与设备").click()
        page.locator("#tx-opt-mlock input").check()
        page.locator("#tx-save").click()
        expect(page.locator("#tx-status")).to_contain_text(f"已将 {SECOND} 的设置保存到 config-user.yaml")
        expect(source(window, "n_ctx")).to_have_text("已保存")
        choose(window, FIRST, "8192")
        expect(page.locator("#tx-opt-mlock input")).not_to_be_checked()
        choose(window, SECOND, "2048")
        expect(page.locator("#tx-opt-mlock input")).to_be_checked()
        page.wait_for_timeout(500)
        expect(page.locator("#tx-pill .tx-empty")).to_be_visible()
        page.locator("#tx-autoload input").check()
        for name in (FIRST, SECOND, FIRST, SECOND):
            window.choose("tx-model", name)
        expect(page.locator("#tx-pill .tx-ready")).to_contain_text("2048", timeout=30_000)
        expect(page.locator("#tx-pill .tx-pill")).to_have_attribute("title", SECOND)
    assert YamlFile(folder / "models" / "config-user.yaml").read() == {
        SECOND: {"loader": "llama.cpp", "n_ctx": 2048, "mlock": True}
    }
    assert (folder / "settings.yaml").read_text() == "# mine\nautoload_model: true\n"
    with opened(chromium, folder, "n_ctx", "en") as window:
        expect(window.page.locator("#tx-autoload input")).to_be_checked()
        choose(window, SECOND, "2048")
        expect(source(window, "n_ctx")).to_have_text("saved")
        window.loaded()
        expect(window.page.locator("#tx-pill")).to_contain_text("llama.cpp · 2048")
        window.tab("Parameters")
        expect(window.page.locator("#tx-gen-truncation_length input")).to_have_value("2048")


def test_invalid_settings_are_reported_and_do_not_prevent_a_load(chromium: Browser, folder: Path) -> None:
    (folder / "models" / "config-user.yaml").write_text("a: [1\nb: 2\n")
    with opened(chromium, folder, "n_ctx") as window:
        expect(window.page.locator("#tx-facts [role=alert]")).to_contain_text("第 2 行第")
        fill(window, "n_ctx", "512")
        window.page.locator("#tx-load").click()
        window.loaded()
        window.page.locator("#tx-save").click()
        expect(window.page.locator("#tx-status")).to_contain_text("config-user.yaml.broken-1")
    assert (folder / "models" / "config-user.yaml.broken-1").read_text() == "a: [1\nb: 2\n"


def test_one_option_and_all_options_can_be_reset(window: Window, server: Server) -> None:
    saved = server.models / "config-user.yaml"
    before = number(window, "n_gpu_layers").input_value()
    fill(window, "n_ctx", "1024")
    fill(window, "n_gpu_layers", "5")
    window.page.locator("#tx-opt-n_ctx .tx-reset").click()
    expect(number(window, "n_ctx")).to_have_value("8192")
    expect(source(window, "n_ctx")).to_have_text("model file")
    expect(number(window, "n_gpu_layers")).to_have_value("5")
    window.page.locator("#tx-save").click()
    expect(source(window, "n_gpu_layers")).to_have_text("saved")
    window.page.locator("#tx-defaults").click()
    expect(number(window, "n_gpu_layers")).to_have_value(before)
    assert YamlFile(saved).read()[FIRST]["n_gpu_layers"] == 5
    window.page.locator("#tx-save").click()
    expect(source(window, "n_gpu_layers")).to_have_text([])
    assert YamlFile(saved).read() == {FIRST: {"loader": "llama.cpp"}}


def test_an_invalid_value_is_reported_at_its_field_and_can_be_reset(window: Window) -> None:
    fill(window, "n_ctx", "-5")
    expect(window.page.locator("#tx-opt-n_ctx .tx-error")).to_contain_text("Enter a whole number from 0 to 8192")
    window.page.set_viewport_size({"width": 390, "height": 900})
    assert window.page.evaluate("document.documentElement.scrollWidth") <= 390
    window.page.set_viewport_size({"width": 1440, "height": 900})
    window.page.locator("#tx-opt-n_ctx .tx-reset").click()
    expect(window.page.locator("#tx-opt-n_ctx .tx-error")).to_have_count(0)
    expect(number(window, "n_ctx")).to_have_value("8192")


def test_the_filter_finds_options_in_folded_groups(window: Window) -> None:
    shown = window.page.locator("#tx-opts .tx-opt:visible")
    before = shown.count()
    window.page.locator("#tx-filter input").fill("cache_8")
    expect(window.page.locator("#tx-opt-cache_8bit")).to_be_visible()
    expect(window.page.locator("#tx-opt-n_ctx")).to_be_hidden()
    window.page.locator("#tx-filter input").fill("physical cores")
    expect(window.page.locator("#tx-opt-threads")).to_be_visible()
    expect(window.page.locator("#tx-opt-cache_8bit")).to_be_hidden()
    window.page.locator("#tx-filter input").fill("cuda")  # the text says CUDA
    expect(window.page.locator("#tx-opt-tensorcores")).to_be_visible()
    expect(window.page.locator("#tx-opt-threads")).to_be_hidden()
    window.page.locator("#tx-filter input").fill("")
    expect(shown).to_have_count(before)


def test_switching_loaders_keeps_values_and_filter(window: Window) -> None:
    fill(window, "n_ctx", "3000")
    window.page.locator("#tx-filter input").fill("parallel")
    expect(window.page.locator("#tx-opt-parallel")).to_be_visible()
    window.page.locator("#tx-loader input").click()
    options = window.page.locator("#tx-loader [role=option]")
    expect(options).to_have_count(2)  # those that read GGUF
    options.last.click()
    # llamacpp_HF does not have the option "parallel".
    expect(window.page.locator("#tx-opts .tx-opt:visible")).to_have_count(0)
    window.page.locator("#tx-filter input").fill("")
    expect(window.page.locator("#tx-opt-parallel")).to_be_hidden()
    expect(number(window, "n_ctx")).to_have_value("3000")
    window.page.locator("#tx-notes summary").first.click()
    expect(window.page.locator("#tx-notes details").first).to_contain_text("llama.cpp made for this format")


def test_contexts_are_set_by_one_click_and_folded_groups_count_changes(window: Window) -> None:
    chips = window.page.locator("#tx-opt-n_ctx .tx-presets button")
    expect(chips).to_have_text(["2k", "4k", "8k max"])
    chips.nth(1).click()
    expect(number(window, "n_ctx")).to_have_value("4096")
    expect(source(window, "n_ctx")).to_have_text("changed, not saved")
    group = window.page.locator("#tx-group-memory > button")
    group.click()
    window.page.locator("#tx-opt-mlock input").check()
    window.page.locator("#tx-opt-no_mmap input").check()
    group.click()
    expect(group.locator("[data-changed='2 changed']")).to_be_visible()
    expect(window.page.locator("#tx-group-context [data-changed='']")).to_be_visible()


def test_sliders_end_at_the_limits_of_the_model(window: Window) -> None:
    slider = window.page.locator("#tx-opt-n_gpu_layers input[type=range]")
    expect(slider).to_have_attribute("max", "31")
    fill(window, "n_gpu_layers", "31")
    expect(source(window, "n_gpu_layers")).to_have_text("changed, not saved")
    fill(window, "n_gpu_layers", "99")
    expect(window.page.locator("#tx-toasts")).to_contain_text("GPU layers must be between -1 and 31; it was set to 31.")


def test_the_memory_bar_follows_the_options_and_offers_a_remedy(window: Window, has_amx: bool) -> None:
    bar = window.page.locator("#tx-memory")
    expect(bar.locator(".tx-fits")).to_contain_text(f"weights {128 if has_amx else 98.4} MB · cache 189 MB")
    fill(window, "n_ctx", "2048")
    expect(bar).to_contain_text("cache 47.2 MB")
    fill(window, "n_ctx", "4000000")
    expect(bar.locator(".tx-short")).to_contain_text("It does not fit")
    bar.get_by_role("button", name="Context length").first.click()
    expect(bar.locator(".tx-short")).to_have_count(0)
    expect(source(window, "n_ctx")).to_have_text("changed, not saved")
    assert 100_000 < int(number(window, "n_ctx").input_value()) < 4_000_000
