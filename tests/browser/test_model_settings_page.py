"""Settings on the Model tab: change, save, return, restart; autoload; invalid values."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from modules.config.yaml_file import YamlFile
from tests.browser.conftest import Window, opened

FIRST, SECOND = "a first.gguf", "模型 [2]+$.gguf"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    """A folder with two models and a settings.yaml."""
    folder = tmp_path_factory.mktemp("settings page")
    (folder / "models").mkdir()
    for name in (FIRST, SECOND):
        (folder / "models" / name).symlink_to(smollm2)
    (folder / "settings.yaml").write_text("# mine\n")
    return folder


@pytest.fixture
def fresh(place: Path) -> Path:
    """`place` with nothing saved yet."""
    (place / "models" / "config-user.yaml").unlink(missing_ok=True)
    (place / "settings.yaml").write_text("# mine\n")
    return place


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


def test_saved_settings_return_after_another_model_and_a_restart(chromium: Browser, fresh: Path) -> None:
    with opened(chromium, fresh, "n_ctx") as window:
        choose(window, SECOND, "8192")
        expect(source(window, "n_ctx")).to_have_text("来自模型文件")
        fill(window, "n_ctx", "2048")
        expect(source(window, "n_ctx")).to_have_text("已修改，未保存")
        window.page.get_by_role("button", name="内存与设备").click()
        window.page.locator("#tx-opt-mlock input").check()
        window.page.locator("#tx-save").click()
        expect(window.page.locator("#tx-status")).to_contain_text(f"已将 {SECOND} 的设置保存到 config-user.yaml")
        expect(source(window, "n_ctx")).to_have_text("已保存")
        choose(window, FIRST, "8192")
        expect(window.page.locator("#tx-opt-mlock input")).not_to_be_checked()
        choose(window, SECOND, "2048")
        expect(window.page.locator("#tx-opt-mlock input")).to_be_checked()
    assert YamlFile(fresh / "models" / "config-user.yaml").read() == {
        SECOND: {"loader": "llama.cpp", "n_ctx": 2048, "mlock": True}
    }
    with opened(chromium, fresh, "n_ctx", "en") as window:
        choose(window, SECOND, "2048")
        expect(source(window, "n_ctx")).to_have_text("saved")
        window.page.locator("#tx-load").click()
        window.loaded()
        expect(window.page.locator("#tx-pill")).to_contain_text("llama.cpp · 2048")
        window.tab("Parameters")
        expect(window.page.locator("#tx-gen-truncation_length input")).to_have_value("2048")


def test_one_option_and_all_options_can_be_reset(chromium: Browser, fresh: Path) -> None:
    with opened(chromium, fresh, "n_ctx", "en") as window:
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
        assert YamlFile(fresh / "models" / "config-user.yaml").read()[FIRST]["n_gpu_layers"] == 5
        window.page.locator("#tx-save").click()
        expect(source(window, "n_gpu_layers")).to_have_text([])
        assert YamlFile(fresh / "models" / "config-user.yaml").read() == {FIRST: {"loader": "llama.cpp"}}


def test_autoload_loads_the_model_selected_last(chromium: Browser, fresh: Path) -> None:
    with opened(chromium, fresh, "n_ctx") as window:
        choose(window, SECOND, "8192")
        fill(window, "n_ctx", "1024")
        expect(source(window, "n_ctx")).to_have_text("已修改，未保存")
        window.page.locator("#tx-save").click()
        expect(source(window, "n_ctx")).to_have_text("已保存")
        choose(window, FIRST, "8192")
        window.page.wait_for_timeout(500)
        expect(window.page.locator("#tx-pill .tx-empty")).to_be_visible()
        window.page.locator("#tx-autoload input").check()
        for name in (SECOND, FIRST, SECOND):
            window.choose("tx-model", name)
        expect(window.page.locator("#tx-pill .tx-ready")).to_contain_text("1024", timeout=30_000)
        expect(window.page.locator("#tx-pill .tx-pill")).to_have_attribute("title", SECOND)
    assert (fresh / "settings.yaml").read_text() == "# mine\nautoload_model: true\n"
    with opened(chromium, fresh, "n_ctx") as window:
        expect(window.page.locator("#tx-autoload input")).to_be_checked()


def test_an_invalid_value_is_reported_at_its_field_and_can_be_reset(chromium: Browser, fresh: Path) -> None:
    with opened(chromium, fresh, "n_ctx", "en", 390) as window:
        fill(window, "n_ctx", "-5")
        expect(window.page.locator("#tx-opt-n_ctx .tx-error")).to_contain_text("n_ctx: -5 is not acceptable")
        width = window.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
        window.page.locator("#tx-opt-n_ctx .tx-reset").click()
        expect(window.page.locator("#tx-opt-n_ctx .tx-error")).to_have_count(0)
        expect(number(window, "n_ctx")).to_have_value("8192")


def test_the_filter_finds_options_in_folded_groups(chromium: Browser, fresh: Path) -> None:
    with opened(chromium, fresh, "n_ctx") as window:
        shown = window.page.locator("#tx-opts .tx-opt:visible")
        before = shown.count()
        window.page.locator("#tx-filter input").fill("cache_8")
        expect(window.page.locator("#tx-opt-cache_8bit")).to_be_visible()
        expect(window.page.locator("#tx-opt-n_ctx")).to_be_hidden()
        window.page.locator("#tx-filter input").fill("物理核心")
        expect(window.page.locator("#tx-opt-threads")).to_be_visible()
        expect(window.page.locator("#tx-opt-cache_8bit")).to_be_hidden()
        window.page.locator("#tx-filter input").fill("cuda")  # the text says CUDA
        expect(window.page.locator("#tx-opt-tensorcores")).to_be_visible()
        expect(window.page.locator("#tx-opt-threads")).to_be_hidden()
        window.page.locator("#tx-filter input").fill("")
        expect(shown).to_have_count(before)


def test_switching_loaders_keeps_values_and_filter(chromium: Browser, fresh: Path) -> None:
    with opened(chromium, fresh, "n_ctx", "en") as window:
        fill(window, "n_ctx", "3000")
        window.page.locator("#tx-filter input").fill("parallel")
        expect(window.page.locator("#tx-opt-parallel")).to_be_visible()
        window.page.locator("#tx-loader input").click()
        options = window.page.locator("#tx-loader [role=option]")
        expect(options).to_have_count(2)  # those that read GGUF
        options.last.click()
        expect(window.page.locator("#tx-opts .tx-opt:visible")).to_have_count(0)
        window.page.locator("#tx-filter input").fill("")
        expect(window.page.locator("#tx-opt-parallel")).to_be_hidden()
        expect(number(window, "n_ctx")).to_have_value("3000")
        window.page.locator("#tx-notes summary").first.click()
        expect(window.page.locator("#tx-notes details").first).to_contain_text("llama.cpp made for this format")


def test_contexts_are_set_by_one_click_and_folded_groups_count_changes(chromium: Browser, fresh: Path) -> None:
    with opened(chromium, fresh, "n_ctx", "en") as window:
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


def test_sliders_end_at_the_limits_of_the_model(chromium: Browser, fresh: Path) -> None:
    with opened(chromium, fresh, "n_ctx") as window:
        slider = window.page.locator("#tx-opt-n_gpu_layers input[type=range]")
        expect(slider).to_have_attribute("max", "31")
        fill(window, "n_gpu_layers", "31")
        expect(source(window, "n_gpu_layers")).to_have_text("已修改，未保存")


def test_invalid_settings_are_reported_and_do_not_prevent_a_load(chromium: Browser, fresh: Path) -> None:
    (fresh / "models" / "config-user.yaml").write_text("a: [1\nb: 2\n")
    with opened(chromium, fresh, "n_ctx") as window:
        expect(window.page.locator("#tx-facts [role=alert]")).to_contain_text("第 2 行第")
        fill(window, "n_ctx", "512")
        window.page.locator("#tx-load").click()
        window.loaded()
        window.page.locator("#tx-save").click()
        expect(window.page.locator("#tx-status")).to_contain_text("config-user.yaml.broken-1")
    assert (fresh / "models" / "config-user.yaml.broken-1").read_text() == "a: [1\nb: 2\n"


def test_the_memory_bar_follows_the_options_and_offers_a_remedy(chromium: Browser, fresh: Path) -> None:
    with opened(chromium, fresh, "n_ctx", "en") as window:
        bar = window.page.locator("#tx-memory")
        expect(bar.locator(".tx-fits")).to_contain_text("weights 94 MB · cache 180 MB")
        fill(window, "n_ctx", "2048")
        expect(bar).to_contain_text("cache 45 MB")
        fill(window, "n_ctx", "4000000")
        expect(bar.locator(".tx-short")).to_contain_text("It does not fit")
        bar.get_by_role("button", name="n_ctx").first.click()
        expect(bar.locator(".tx-short")).to_have_count(0)
        expect(source(window, "n_ctx")).to_have_text("changed, not saved")
        assert 100_000 < int(number(window, "n_ctx").input_value()) < 4_000_000
