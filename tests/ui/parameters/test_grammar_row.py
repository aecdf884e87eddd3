"""Grammar files are loaded into the field, saved if they are valid, and deleted with undo."""

from __future__ import annotations

from tests.ui.parameters.conftest import MakeTab, report, shown_values
from tests.ui.parameters.test_preset_card import event, undone

KEY = "grammar_string"


def test_a_grammar_is_saved_only_if_it_is_valid(make_tab: MakeTab) -> None:
    tab = make_tab()
    row = tab.grammar
    values = shown_values(tab, grammar_string='root ::= "a" |\n ) "b"') | {row.name: "ab"}
    refused = row.save_grammar(values)
    assert 'role="alert"' in refused[row.line] and "line 2" in refused[row.line]
    assert tab.app.grammars.names() == []
    saved = row.save_grammar(values | {tab.widgets[KEY]: 'root ::= "a"'})
    assert "Saved the grammar ab" in saved[row.line] and saved[row.file]["value"] == "ab"


def test_a_loaded_grammar_replaces_the_field_and_can_be_undone(make_tab: MakeTab) -> None:
    tab = make_tab()
    row = tab.grammar
    tab.app.grammars.save("ab", 'root ::= "a" | "b"')
    values = shown_values(tab, grammar_string="root ::= [0-9]") | {row.file: "ab"}
    loaded = row.load_grammar(values)
    assert loaded[tab.widgets[KEY]] == 'root ::= "a" | "b"'
    assert report(tab, loaded)["kept"][KEY]["value"] == 'root ::= "a" | "b"'
    assert undone(row, values, loaded)[tab.widgets[KEY]] == "root ::= [0-9]"
    assert "data-undo" not in row.load_grammar(values | {tab.widgets[KEY]: ""})[row.line]
    assert 'role="alert"' in row.load_grammar(values | {row.file: "none"})[row.line]
    assert row.load_grammar(values | {row.file: None}) == {row.line: ""}, "the menu was emptied"


def test_saving_over_and_deleting_can_be_undone_by_the_owner_alone(make_tab: MakeTab) -> None:
    tab = make_tab()
    row = tab.grammar
    tab.app.grammars.save("ab", 'root ::= "a"')
    values = shown_values(tab, grammar_string='root ::= "b"') | {row.file: "ab"}
    saved = row.save_grammar(values)
    assert tab.app.grammars.read("ab") == 'root ::= "b"'
    undone(row, values, saved)
    assert tab.app.grammars.read("ab") == 'root ::= "a"'
    deleted = row.delete_grammar(values)
    assert tab.app.grammars.names() == []
    assert undone(row, values, deleted)[row.file]["value"] == "ab"
    for sent in (None, {"kind": "x", "name": 7}, {"kind": "delete", "name": "../ab"}):
        assert 'role="alert"' in row.undo(values, event(sent))[row.line]

    guest = make_tab("en", "--multi-user").grammar
    for handler in (guest.save_grammar, guest.delete_grammar):
        assert 'role="alert"' in handler(values)[guest.line]
    assert 'role="alert"' in guest.undo(values, event({"kind": "delete", "name": "ab"}))[guest.line]
