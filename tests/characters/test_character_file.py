"""The files of characters: keys of the original, cards within them, and what is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modules.characters.card import dump_json, of_card
from modules.characters.character import Character
from modules.characters.character_file import is_character, read_character, write_json, write_yaml
from modules.characters.errors import CardProblem
from modules.characters.lorebook import Lorebook, LoreEntry
from modules.config.yaml_file import YamlFile
from modules.core.events import Json
from tests.support.cards import CARDS, V2


def test_all_spellings_of_the_original_are_read(subtests: pytest.Subtests) -> None:
    for key in ("name", "bot", "<|bot|>", "char_name"):
        with subtests.test(key):
            assert read_character("x", {key: "Bo", "context": "c"}).name == "Bo"
    for key in ("your_name", "user", "<|user|>"):
        with subtests.test(key):
            assert read_character("x", {"name": "Bo", key: "Ann"}).user_name == "Ann"
    assert read_character("file stem", {"context": "c"}).name == "file stem"


def test_the_fields_of_pygmalion_make_the_context_of_the_original() -> None:
    data = {
        "char_name": "Bo", "char_persona": "kind", "world_scenario": "a hut", "example_dialogue": "You: Hi\nBo: Ho\n",
        "char_greeting": "Hello", "greeting": "never",
    }  # fmt: skip
    character = read_character("x", data)
    assert character.context == "Bo's Persona: kind\nScenario: a hut\nYou: Hi\nBo: Ho"
    assert character.greetings == ("Hello",)
    assert character.examples == ""


def test_a_context_counts_more_than_the_fields_of_pygmalion() -> None:
    data = {"char_name": "Bo", "char_persona": "kind", "char_greeting": "Hello", "greeting": "Hi", "context": "c"}
    assert read_character("x", data) == Character("x", "Bo", "c", ("Hi",))


def test_values_that_yaml_takes_for_numbers_are_texts() -> None:
    assert read_character("x", {"name": 7, "context": "c"}).name == "7"


def test_lists_where_texts_belong_are_refused() -> None:
    with pytest.raises(CardProblem, match="context"):
        read_character("x", {"name": "Bo", "context": ["c"]})
    with pytest.raises(CardProblem, match="card"):
        read_character("x", {"name": "Bo", "card": {"data": {}}})
    with pytest.raises(CardProblem, match="character_book"):
        read_character("x", {"name": "Bo", "character_book": {"entries": []}})


def test_a_file_that_was_edited_by_hand_counts_more_than_its_card() -> None:
    data = {"name": "Eve", "context": "new", "greeting": "Hey", "card": dump_json(V2)}
    assert read_character("ada", data) == dataclasses.replace(
        of_card("ada", V2), name="Eve", context="new", greetings=("Hey", "Good evening.", "You are late.")
    )


WHOLE = Character(
    "x", "Bo", "c\nd", ("Hi", "Ho\n1"), "<START>\nA", "S", "P", "Ann", Lorebook((LoreEntry(("k",), "text"),))
)


def test_what_is_written_is_read_again(tmp_path: Path, subtests: pytest.Subtests) -> None:
    characters = {
        "whole": WHOLE, "little": Character("x", "on"), "a number": Character("x", "1e3", greetings=("a\nb",)),
        **{name: of_card("x", card) for name, card in CARDS.items()},
    }  # fmt: skip
    for name, character in characters.items():
        with subtests.test(name):
            file = YamlFile(tmp_path / f"{name}.yaml")
            file.update(lambda content, character=character: write_yaml(content, character))
            read = read_character("x", file.read())
            book = character.lorebook
            assert dataclasses.replace(read, lorebook=None) == dataclasses.replace(character, lorebook=None)
            assert (read.lorebook and read.lorebook.to_json()) == (book and book.to_json())


def test_comments_and_keys_of_other_programs_stay(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# mine\nname: Bo\nuser: Old\ncontext: c\nvoice: deep # yes\n", encoding="utf-8")
    YamlFile(path).update(lambda content: write_yaml(content, Character("x", "Eve", "c")))
    text = path.read_text(encoding="utf-8")
    assert "# mine" in text and "voice: deep # yes" in text
    assert read_character("x", YamlFile(path).read()) == Character("x", "Eve", "c")


def test_json_files_stay_what_they_are(subtests: pytest.Subtests) -> None:
    original: dict[str, Json] = {"char_name": "Bo", "context": "c", "extra": 1}
    write_json(original, dataclasses.replace(read_character("x", original), user_name="Ann"))
    assert read_character("x", original) == Character("x", "Bo", "c", user_name="Ann")
    assert original["extra"] == 1
    for name, card in CARDS.items():
        with subtests.test(name):
            content: dict[str, Json] = dict(card)
            write_json(content, read_character("x", content))
            assert content == card
            write_json(content, dataclasses.replace(read_character("x", content), user_name="Ann", name="Eve"))
            assert read_character("x", content).user_name == "Ann"
            assert read_character("x", content).name == "Eve"


def test_only_files_with_fields_of_a_character_are_ones() -> None:
    assert is_character({"greeting": "Hi"}) and is_character(V2)
    assert not is_character({"model": "x"})
