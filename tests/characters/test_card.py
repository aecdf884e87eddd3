"""Cards: their fields, and changes written back into them."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from modules.characters.card import as_version, card_with, dump_json, new_card, of_card, parse_card, warnings_of
from modules.characters.character import Character
from modules.characters.errors import CardProblem
from tests.support.cards import CARDS, V1, V2, V3

CONTEXT = "Ada is a mathematician.\n\n{{char}}'s personality: patient\n\nScenario: London, 1843."


def test_the_fields_of_a_card_become_those_of_a_character() -> None:
    ada = of_card("ada", V2)
    assert (ada.id, ada.name, ada.context) == ("ada", "Ada", CONTEXT)
    assert ada.greetings == ("Good morning, {{user}}.", "Good evening.", "You are late.")
    assert ada.examples.startswith("<START>")
    assert ada.system_prompt == "{{original}}\nWrite as {{char}}."
    assert ada.post_history == "Stay in 1843."
    assert ada.creator_notes == "Runs best at night.\n— the author"
    assert ada.lorebook is not None and ada.lorebook.entries[0].keys == ("engine",)
    assert of_card("ada", V1).context == CONTEXT


def test_a_nickname_is_the_name_in_conversations() -> None:
    assert of_card("ada", V3).name == "Countess"


def test_any_field_may_be_missing(subtests: pytest.Subtests) -> None:
    for name, card in CARDS.items():
        fields = card.get("data", card)
        for key in list(fields):
            with subtests.test(f"{name} without {key}"):
                rest = {one: value for one, value in fields.items() if one != key}
                of_card("x", parse_card(json.dumps({**card, "data": rest} if "data" in card else rest)))


def test_fields_of_the_wrong_type_are_named(subtests: pytest.Subtests) -> None:
    cases: dict[str, Any] = {
        "description": 3, "name": [], "first_mes": {}, "alternate_greetings": "x", "mes_example": True,
        "system_prompt": 1.5, "nickname": {}, "character_book": [],
    }  # fmt: skip
    for key, value in cases.items():
        with subtests.test(key), pytest.raises(CardProblem, match="lorebook" if key == "character_book" else key):
            parse_card(json.dumps({**V2, "data": {**V2["data"], key: value}}))


def test_what_is_no_card_is_refused(subtests: pytest.Subtests) -> None:
    for text in ("", "[]", "{", "null", "{}", '{"a": 1}', '{"spec": "chara_card_v2", "data": {}}', "[" * 100_000):
        with subtests.test(text[:20]), pytest.raises(CardProblem):
            parse_card(text)
    with pytest.raises(CardProblem, match="nested"):
        parse_card('{"description": "x", "a": ' + "[" * 50 + "]" * 50 + "}")
    with pytest.raises(CardProblem, match="2 MB"):
        parse_card(json.dumps({"description": "x" * 2_000_001}))


def test_a_card_that_is_not_changed_stays_as_it_is(subtests: pytest.Subtests) -> None:
    for name, card in CARDS.items():
        with subtests.test(name):
            assert card_with(card, of_card("ada", card)) == card


def test_fields_are_as_the_page_shows_them_so_that_showing_them_changes_nothing() -> None:
    odd = {**V1, "name": " Ada\n Lovelace ", "description": " a\r\nb\rc ", "first_mes": "x\r"}
    ada = of_card("ada", odd)
    assert (ada.name, ada.context.split("\n\n")[0], ada.greetings) == ("Ada Lovelace", "a\nb\nc", ("x\n",))
    assert card_with(odd, ada) == odd


def test_an_edited_field_changes_the_same_field_of_the_card(subtests: pytest.Subtests) -> None:
    edits: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "name": ({"name": "Byron"}, {"name": "Byron"}),
        "greetings": ({"greetings": ("Hi", "Ho")}, {"first_mes": "Hi", "alternate_greetings": ["Ho"]}),
        "examples": ({"examples": "<START>"}, {"mes_example": "<START>"}),
        "system prompt": ({"system_prompt": "S"}, {"system_prompt": "S"}),
        "post-history": ({"post_history": "P"}, {"post_history_instructions": "P"}),
        "lorebook": ({"lorebook": None}, {"character_book": None}),
    }
    for name, (change, expected) in edits.items():
        with subtests.test(name):
            changed = card_with(V2, dataclasses.replace(of_card("ada", V2), **change))
            assert changed == {**V2, "data": {**V2["data"], **expected}}
    changed = card_with(V3, dataclasses.replace(of_card("ada", V3), name="Lady"))
    assert changed["data"]["nickname"] == "Lady" and changed["data"]["name"] == "Ada"


def test_greetings_that_have_not_changed_keep_their_fields() -> None:
    changed = card_with(V1, dataclasses.replace(of_card("ada", V1), greetings=("Hi",)))
    assert changed == {**V1, "first_mes": "Hi"}
    only_alternates = {**V1, "first_mes": "", "alternate_greetings": ["A"]}
    edited = card_with(only_alternates, dataclasses.replace(of_card("ada", only_alternates), greetings=("B",)))
    assert of_card("ada", edited).greetings == ("B",)


def test_parts_of_the_context_that_have_not_changed_keep_their_fields(subtests: pytest.Subtests) -> None:
    cases = {
        CONTEXT.replace("Ada is", "Ada was"): ("Ada was a mathematician.", "patient", "London, 1843."),
        CONTEXT.replace("London, 1843.", "Paris."): (CONTEXT.replace("London, 1843.", "Paris."), "", ""),
        CONTEXT.replace("patient", "rash"): (
            "Ada is a mathematician.\n\n{{char}}'s personality: rash", "", "London, 1843.",
        ),
        "": ("", "", ""),
    }  # fmt: skip
    for context, expected in cases.items():
        with subtests.test(context[:30]):
            changed = card_with(V2, dataclasses.replace(of_card("ada", V2), context=context))
            assert tuple(changed["data"][key] for key in ("description", "personality", "scenario")) == expected
            assert of_card("ada", changed).context == context


def test_fields_that_are_repeated_outside_of_data_are_changed_too() -> None:
    both = {**copy.deepcopy(V2), "first_mes": "Good morning, {{user}}.", "avatar": "none"}
    changed = card_with(both, dataclasses.replace(of_card("ada", both), greetings=("Hi",)))
    assert changed["first_mes"] == changed["data"]["first_mes"] == "Hi"
    assert changed["avatar"] == "none" and "alternate_greetings" not in changed


def test_a_character_without_a_card_gets_one() -> None:
    character = Character("x", "Bo", "A context.", ("Hi", "Ho"), "<START>", "S", "P", "Ann")
    card = new_card(character)
    assert dataclasses.replace(of_card("x", card), card=None, user_name="Ann") == character
    assert "your_name" not in card


def test_other_versions_have_all_that_they_require() -> None:
    third = as_version(V1, "chara_card_v3")
    assert third["spec_version"] == "3.0"
    assert third["data"]["create_date"] == "2023-04-01"
    assert third["data"].keys() >= {"group_only_greetings", "extensions", "tags", "alternate_greetings", "creator"}
    assert as_version(V3, "chara_card_v3") == V3


def test_newer_formats_are_read_with_a_warning() -> None:
    assert [warnings_of(card) for card in CARDS.values()] == [[], [], []]
    newer = {**V3, "spec_version": "3.1"}
    assert "3.1" in warnings_of(newer)[0]["en"] and "3.1" in warnings_of(newer)[0]["zh"]
    assert of_card("x", parse_card(json.dumps(newer))).name == "Countess"
    assert len(warnings_of({"spec": "chara_card_v9", "data": {}})) == 1


def test_json_survives_utf_8_with_every_character() -> None:
    value = "".join(map(chr, range(0x3000))) + "\ud800\U0001f3b2\uffff"
    text = dump_json({"x": value})
    assert json.loads(text.encode().decode()) == {"x": value}
    assert not set(text) & {"\u2028", "\x85", "\x7f"}
