"""Values that a preset replaces can be brought back; guests change no files."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest

from modules.config.presets import NEUTRAL
from modules.ui.gradio_import import gradio
from tests.ui.parameters.conftest import MakeTab, after, report, shown_values

gr = gradio()


def undone(part: Any, values: dict[Any, Any], updates: dict[Any, Any]) -> dict[Any, Any]:
    """Press the undo button that `updates` show, and return what that changes."""
    (data,) = re.findall('data-undo="([^"]*)"', updates[part.line])
    changed: dict[Any, Any] = part.undo(after(values, updates), event(json.loads(unescape(data))))
    return changed


def event(data: object) -> Any:
    return gr.EventData(None, data)


def test_no_preset_is_picked_by_itself(make_tab: MakeTab) -> None:
    first = make_tab()
    first.app.presets.save("warm", {"temperature": 1.2})
    assert make_tab().preset.value is None


def test_values_of_a_preset_that_was_deleted_count_as_changed_by_hand(make_tab: MakeTab) -> None:
    tab = make_tab()
    for name, temperature in (("warm", 1.2), ("cold", 0.2)):
        tab.app.presets.save(name, {"temperature": temperature})
    values = shown_values(tab, **NEUTRAL) | {tab.preset: "warm"}
    values = after(values, tab.pick_preset(values))
    tab.app.presets.delete("warm")
    assert report(tab, tab.report(values))["changed"] == {}, "there is nothing to compare with"
    picked = tab.pick_preset(values | {tab.preset: "cold"})
    assert "replaced values changed by hand" in picked[tab.line]
    assert undone(tab, values | {tab.preset: "cold"}, picked)[tab.widgets["temperature"]] == 1.2


def test_picking_a_preset_over_values_changed_by_hand_can_be_undone(make_tab: MakeTab) -> None:
    tab = make_tab()
    for name, temperature in (("warm", 1.2), ("cold", 0.2)):
        tab.app.presets.save(name, {"temperature": temperature})
    values = shown_values(tab, **NEUTRAL) | {tab.preset: "warm"}
    picked = tab.pick_preset(values)
    assert "data-undo" not in picked[tab.line]  # nothing was changed by hand
    values = after(values, picked) | {tab.widgets["top_k"]: 7, tab.preset: "cold"}
    picked = tab.pick_preset(values)
    assert "replaced values changed by hand" in picked[tab.line]
    assert (picked[tab.widgets["temperature"]], picked[tab.widgets["top_k"]]) == (0.2, 0)
    back = undone(tab, values, picked)
    assert (back[tab.preset], back[tab.widgets["temperature"]], back[tab.widgets["top_k"]]) == ("warm", 1.2, 7)
    assert report(tab, back)["changed"] == {"top_k": "0"}
    assert tab.app.settings.current.preset == "warm"


def test_one_value_goes_back_to_that_of_the_preset(make_tab: MakeTab) -> None:
    tab = make_tab()
    tab.app.presets.save("warm", {"temperature": 1.2})
    values = shown_values(tab, **NEUTRAL, max_new_tokens=5) | {tab.preset: "warm"}
    assert report(tab, tab.report(values))["changed"] == {"temperature": "1.2"}
    reset = tab.reset(values, event({"reset": "temperature"}))
    assert reset[tab.widgets["temperature"]] == 1.2 and report(tab, reset)["changed"] == {}
    assert tab.widgets["top_k"] not in reset
    values |= {tab.widgets["top_k"]: 7}
    all_back = tab.reset(values, event({"all": True}))
    assert report(tab, all_back)["changed"] == {} and all_back[tab.preset] == "warm"
    assert undone(tab, values, all_back)[tab.widgets["top_k"]] == 7
    for sent in ({"reset": "max_new_tokens"}, {"reset": ["x"]}, {}, None):
        assert 'role="alert"' in tab.reset(values, event(sent))[tab.line]


def test_saving_over_a_preset_deleting_and_renaming_can_be_undone(make_tab: MakeTab) -> None:
    tab = make_tab()
    tab.app.presets.save("warm", {"temperature": 1.2})
    values = shown_values(tab, **NEUTRAL) | {tab.preset: "warm", tab.widgets["top_k"]: 9}
    saved = tab.save_preset(values)
    assert "Replaced the preset warm" in saved[tab.line]
    assert tab.app.presets.read("warm").values["top_k"] == 9
    undone(tab, values, saved)
    assert tab.app.presets.read("warm").values == {**NEUTRAL, "temperature": 1.2}

    renamed = tab.rename_preset(values | {tab.name: "hot"})
    assert (renamed[tab.preset]["value"], tab.app.settings.current.preset) == ("hot", "hot")
    undone(tab, values, renamed)
    assert tab.app.presets.names() == ["warm"]

    deleted = tab.delete_preset(values)
    assert (deleted[tab.preset]["value"], tab.app.presets.names()) == (None, [])
    assert undone(tab, values, deleted)[tab.preset]["value"] == "warm"


def test_an_undo_that_no_button_sends_is_refused(make_tab: MakeTab, subtests: pytest.Subtests) -> None:
    tab = make_tab()
    for sent in (None, {}, {"kind": "x"}, {"kind": "save", "name": "../x"}, {"kind": "rename", "name": "a", "old": 5}):
        with subtests.test(sent=sent):
            assert 'role="alert"' in tab.undo(shown_values(tab), event(sent))[tab.line]
    values = shown_values(tab) | {tab.before: {"values": {"top_k": -5}}}
    assert 'role="alert"' in tab.undo(values, event({"kind": "values"}))[tab.line]


def test_a_preset_file_is_imported_and_exported_with_its_unknown_keys(make_tab: MakeTab) -> None:
    tab = make_tab()
    text = "top_k: 5\npenalty_alpha: 0.6\n"
    imported = tab.import_preset({"name": "Big O.yaml", "text": text, "size": len(text)})
    assert "Imported the preset Big O" in imported[tab.line] and "penalty_alpha" in imported[tab.line]
    assert tab.export_preset("Big O")[tab.exported] == {"name": "Big O", "text": text}
    assert tab.import_preset({})[tab.line] == gr.skip()  # no file was chosen
    for file in ({"name": "a.yaml", "text": "", "size": 10**9}, {"name": "../a.yaml", "text": text}, {"name": 5}):
        assert 'role="alert"' in tab.import_preset(file)[tab.line]
    missing = tab.export_preset("none")
    assert 'role="alert"' in missing[tab.line] and missing[tab.exported] == {}
    assert tab.app.presets.names() == ["Big O"]


def test_random_values_are_named_and_can_be_undone(make_tab: MakeTab) -> None:
    tab = make_tab()
    values = shown_values(tab, temperature=0.33)
    drawn = tab.draw(values)
    new = {key: drawn[tab.widgets[key]] for key in NEUTRAL}
    differing = [key for key in NEUTRAL if new[key] != NEUTRAL[key] and new[key] is not True]
    assert differing and all(key in drawn[tab.line] for key in differing)
    assert drawn[tab.preset] is None
    assert undone(tab, values, drawn)[tab.widgets["temperature"]] == 0.33


def test_guests_pick_presets_but_change_no_files(make_tab: MakeTab) -> None:
    tab = make_tab("en", "--multi-user")
    tab.app.presets.save("warm", {"temperature": 1.2})
    values = shown_values(tab) | {tab.preset: "warm", tab.name: "mine"}
    assert tab.pick_preset(values)[tab.widgets["temperature"]] == 1.2
    assert tab.app.settings.current.preset == ""
    for handler in (tab.save_preset, tab.rename_preset, tab.delete_preset):
        assert 'role="alert"' in handler(values)[tab.line]
    assert 'role="alert"' in tab.import_preset({"name": "a.yaml", "text": "", "size": 0})[tab.line]
    assert 'role="alert"' in tab.undo(values, event({"kind": "save", "name": "warm"}))[tab.line]
    assert tab.app.presets.names() == ["warm"]
