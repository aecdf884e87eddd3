"""A page shows again what the browser has kept, in either language and after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.config.yaml_file import YamlFile
from tests.support import echo_plans
from tests.ui.parameters.conftest import MakeTab, after, report, shown_values


def opened(tab: Any, kept: object) -> Any:
    """Open the page in a browser that has kept these values."""
    return tab.open_page({"values": kept, "groups": None})


def test_a_saved_preset_is_shown_after_a_restart(make_tab: MakeTab, tmp_path: Path) -> None:
    tab = make_tab()
    saved = tab.save_preset(shown_values(tab, temperature=1.3, top_k=33) | {tab.name: "mine"})
    assert "mine" in saved[tab.line] and saved[tab.preset]["value"] == "mine"
    assert YamlFile(tmp_path / "settings.yaml").read() == {"preset": "mine"}

    restarted = make_tab()
    shown = restarted.open_page({})
    assert (shown[restarted.preset]["value"], shown[restarted.name]) == ("mine", "mine")
    assert (shown[restarted.widgets["temperature"]], shown[restarted.widgets["top_k"]]) == (1.3, 33)


def test_all_values_and_the_preset_survive_a_reload(make_tab: MakeTab) -> None:
    tab = make_tab("zh")
    tab.app.presets.save("warm", {"temperature": 1.2})
    values = shown_values(tab) | {tab.preset: "warm"}
    values = after(values, tab.pick_preset(values))
    changes = {"temperature": 1.3, "max_new_tokens": 64, "grammar_string": "root ::= [0-9]", "truncation_length": 300}
    values |= {tab.widgets[key]: value for key, value in changes.items()}
    kept = report(tab, tab.report(values))["kept"]

    other = make_tab("en")
    shown = opened(other, kept)
    assert {key: shown[other.widgets[key]] for key in changes} == changes
    assert shown[other.preset]["value"] == "warm"
    assert report(other, shown)["changed"] == {"temperature": "1.2"}
    assert report(other, shown)["kept"] == kept


def test_no_preset_after_all_samplers_were_turned_off_survives_a_reload(make_tab: MakeTab) -> None:
    tab = make_tab()
    tab.app.presets.save("warm", {"temperature": 1.2})
    tab.app.settings.set("preset", "warm")
    values = shown_values(tab) | {tab.preset: "warm", tab.before: {"picked": "warm"}}
    kept = report(tab, tab.neutralize(values))["kept"]
    shown = opened(tab, kept)
    assert (shown[tab.preset]["value"], shown[tab.widgets["temperature"]]) == (None, 1.0)


def test_what_the_browser_has_kept_is_ignored_where_it_is_invalid(make_tab: MakeTab, subtests: pytest.Subtests) -> None:
    tab = make_tab()
    length = tab.widgets["max_new_tokens"]
    assert opened(tab, {"max_new_tokens": {"value": 64, "initial": 512}})[length] == 64
    invalid: list[object] = [
        None,
        5,
        {"max_new_tokens": 64},
        {"max_new_tokens": {"value": -5, "initial": 512}},
        {"max_new_tokens": {"value": {"a": 1}, "initial": 512}},
        {"max_new_tokens": {"value": 64, "initial": 100}},
        {"preset": {"value": "gone", "initial": ""}},
        {"preset": {"value": ["x"], "initial": ""}},
    ]
    for kept in invalid:
        with subtests.test(kept=kept):
            shown = opened(tab, kept)
            assert (shown[length], shown[tab.preset]["value"]) == (512, None)


def test_a_newer_value_of_the_settings_file_replaces_what_the_browser_has_kept(
    make_tab: MakeTab, tmp_path: Path
) -> None:
    (tmp_path / "settings.yaml").write_text("max_new_tokens: 100\n")
    tab = make_tab()
    shown = opened(tab, {"max_new_tokens": {"value": 64, "initial": 512}, "top_k": {"value": 3, "initial": 0}})
    assert (shown[tab.widgets["max_new_tokens"]], shown[tab.widgets["top_k"]]) == (100, 3)


def test_the_groups_that_were_open_are_open_again(make_tab: MakeTab) -> None:
    tab = make_tab()
    shown = tab.open_page({"values": {}, "groups": ["constraints", 5, "unknown"]})
    assert {name: shown[fold]["open"] for name, fold in tab.folds.items()} == {
        name: name == "constraints" for name in tab.folds
    }
    for sent in (None, {"groups": "constraints"}, []):
        assert not any(tab.open_page(sent)[fold]["open"] for fold in tab.folds.values())


def test_the_longest_prompt_is_kept_as_long_as_the_model_has_the_same_context(make_tab: MakeTab) -> None:
    tab = make_tab()
    length = tab.widgets["truncation_length"]
    model = echo_plans.load(tab.app.models)
    kept = report(tab, tab.report(shown_values(tab, truncation_length=30)))["kept"]
    assert kept == {"truncation_length": {"value": 30, "initial": model.info.context_length}}
    assert opened(tab, kept)[length] == 30
    assert opened(tab, {})[length] == model.info.context_length
    tab.app.models.unload()
    assert opened(tab, kept)[length] == 0
