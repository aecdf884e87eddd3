"""Who takes part in a conversation is known even if files are missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modules.characters.errors import InvalidCharacter, PersonaNotFound
from modules.chat.participants import ParticipantResolver
from modules.chat.templates import ChatTemplates
from modules.conversations.conversation import Conversation
from tests.support.dialogues import make_prompts, write_character


def resolver(folder: Path, guests: bool = False, **settings: str) -> ParticipantResolver:
    return make_prompts(folder, ChatTemplates(), guests, **settings).participants


def test_the_persona_is_the_user_then_the_name_in_the_file_then_that_of_the_settings(tmp_path: Path) -> None:
    write_character(tmp_path, "mia", name="Mia", your_name="Ann")
    write_character(tmp_path, "rex", name="Rex")
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "tom.yaml").write_text("name: Tom\nuser_bio: Sails.\n")
    owner = resolver(tmp_path, name1="Zoe", user_bio="Of the settings.")
    for character, persona, expected in (
        ("mia", "tom", ("Tom", "Sails.")),
        ("mia", "", ("Ann", "Of the settings.")),
        ("rex", "", ("Zoe", "Of the settings.")),
        ("rex", "absent", ("Zoe", "Of the settings.")),
    ):
        people = owner.of(Conversation("", character=character, persona=persona))
        assert (people.user, people.bio) == expected
    assert resolver(tmp_path, name1="").of(Conversation("")).user == "You"


def test_guests_get_nothing_of_what_describes_the_owner(tmp_path: Path) -> None:
    write_character(tmp_path, "mia", name="Mia", your_name="Ann")
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "tom.yaml").write_text("name: Tom\nuser_bio: Sails.\n")
    guests = resolver(tmp_path, guests=True, name1="Zoe", user_bio="Of the settings.")
    for character, user in (("mia", "Ann"), ("", "You")):
        people = guests.of(Conversation("", character=character, persona="tom"))
        assert (people.user, people.bio) == (user, "")
    with pytest.raises(PersonaNotFound):
        guests.persona("tom")


def test_a_conversation_goes_on_without_its_character(tmp_path: Path) -> None:
    people = resolver(tmp_path).of(Conversation("", character="Gone"))
    assert (people.char, people.missing, people.character.context) == ("Gone", True, "")
    people = resolver(tmp_path).of(Conversation(""))
    assert (people.char, people.missing) == ("AI", False)


def test_a_changed_file_is_read_again_and_a_damaged_one_refused(tmp_path: Path) -> None:
    write_character(tmp_path, "mia", name="Mia")
    owner = resolver(tmp_path)
    talk = Conversation("", character="mia")
    assert owner.of(talk).character is owner.of(talk).character
    write_character(tmp_path, "mia", name="Mia the Second")
    assert owner.of(talk).char == "Mia the Second"
    file = tmp_path / "characters" / "mia.json"
    file.write_text("{")
    os.utime(file, (1, 1))
    with pytest.raises(InvalidCharacter):
        owner.of(talk)
