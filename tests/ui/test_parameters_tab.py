"""The Parameters tab: the preset in use is shown on a new page, also after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.config.presets import Presets
from modules.config.yaml_file import YamlFile
from modules.core.errors import OptionError
from modules.loaders.registry import LOADERS
from modules.options.generation import SUPPORTED_BY_ALL
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.parameters.tab import KEPT, ParametersTab
from tests.support.page_parts import AsCalled, page_parts

gr = gradio()


@pytest.fixture
def make_tab(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Build the tab of a program that has just been started."""

    def make() -> Any:
        app = make_app()
        monkeypatch.setattr(app, "presets", Presets(tmp_path / "presets"))
        with page_parts() as blocks:
            tab = ParametersTab(Page(app, "en"))
            tab.on_page_load(blocks.load)
        return AsCalled(blocks, tab)

    return make


def test_a_saved_preset_is_shown_after_a_restart(make_tab: Callable[[], Any], tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    tab = make_tab()
    values = {widget: widget.value for widget in tab.widgets.values()}
    values |= {tab.widgets["temperature"]: 1.3, tab.widgets["top_k"]: 33, tab.name: "mine", tab.preset: None}
    saved = tab.save_preset(values)
    assert "mine" in saved[tab.line] and saved[tab.preset]["value"] == "mine"
    assert YamlFile(tmp_path / "settings.yaml").read() == {"preset": "mine"}

    restarted = make_tab()
    shown = restarted.open_page()
    assert (shown[restarted.preset]["value"], shown[restarted.name]) == ("mine", "mine")
    picked = restarted.pick_preset("mine")
    assert (picked[restarted.widgets["temperature"]], picked[restarted.widgets["top_k"]]) == (1.3, 33)


def test_an_invalid_number_is_refused_with_what_to_enter(
    make_tab: Callable[[], Any], subtests: pytest.Subtests
) -> None:
    tab = make_tab()
    length, loader = tab.widgets["max_new_tokens"], LOADERS["llama.cpp"]
    for value in (-5, 999_999_999, None, 1.5):
        with subtests.test(value=value):
            problem = tab.check({length: value})[tab.problem]
            assert "Max new tokens: Enter a whole number from 0 to" in problem and 'role="alert"' in problem
            with pytest.raises(OptionError):
                tab.params({length: value}, loader)
    assert tab.check({length: 512, tab.widgets["seed"]: -1})[tab.problem] == ""
    assert tab.params({length: 512}, loader)["max_new_tokens"] == 512


def test_an_empty_number_that_the_loader_does_not_use_is_ignored(make_tab: Callable[[], Any]) -> None:
    tab = make_tab()
    loader = LOADERS["llama.cpp"]
    unused = next(key for key in tab.widgets if key not in loader.samplers | SUPPORTED_BY_ALL)
    tab.params({tab.widgets[unused]: None}, loader)


def test_what_the_browser_has_kept_is_shown_again_if_it_is_valid(
    make_tab: Callable[[], Any], tmp_path: Path, subtests: pytest.Subtests
) -> None:
    tab = make_tab()
    length = tab.widgets["max_new_tokens"]
    assert tab.recall({"max_new_tokens": {"value": 64, "initial": 512}})[length] == 64
    invalid: list[object] = [
        None,
        5,
        {"max_new_tokens": 64},
        {"max_new_tokens": {"value": -5, "initial": 512}},
        {"max_new_tokens": {"value": {"a": 1}, "initial": 512}},
        {"max_new_tokens": {"value": 64, "initial": 100}},
    ]
    for kept in invalid:
        with subtests.test(kept=kept):
            assert tab.recall(kept)[length] == gr.skip()
    assert "temperature" not in KEPT and "truncation_length" not in KEPT and "max_new_tokens" in KEPT


def test_a_value_of_the_settings_file_replaces_what_the_browser_has_kept(
    make_tab: Callable[[], Any], tmp_path: Path
) -> None:
    (tmp_path / "settings.yaml").write_text("max_new_tokens: 100\n")
    tab = make_tab()
    assert tab.recall({"max_new_tokens": {"value": 64, "initial": 512}})[tab.widgets["max_new_tokens"]] == gr.skip()
