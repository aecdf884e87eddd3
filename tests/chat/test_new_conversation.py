"""Conversations begin as settings and request say, and their characters change until the user has written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.characters.errors import CharacterNotFound, PersonaNotFound
from modules.chat.errors import ConversationBegun
from modules.chat.new_conversation import ConversationSetup
from modules.chat.templates import ChatTemplates
from modules.conversations.conversation import Conversation
from modules.core.errors import OptionError
from modules.runtime.load_plan import LoadPlan
from modules.runtime.model_manager import ModelManager
from tests.conftest import ECHO
from tests.support import echo_plans
from tests.support.dialogues import make_prompts, write_character


@pytest.fixture(scope="module")
def templates() -> Iterator[ChatTemplates]:
    templates = ChatTemplates()
    yield templates
    templates.close()


def setup_of(
    folder: Path, templates: ChatTemplates, models: ModelManager | None = None, **settings: str
) -> ConversationSetup:
    write_character(folder, "mia", name="Mia", greeting="Meow, {{user}}!", alternate_greetings=["Purr.", "Hiss."])
    write_character(folder, "rex", name="Rex", greeting="Woof!")
    (folder / "users").mkdir(exist_ok=True)
    (folder / "users" / "tom.yaml").write_text("name: Tom\nuser_bio: Sails.\n")
    participants = make_prompts(folder, templates, **settings).participants
    return ConversationSetup(participants, templates, models or ModelManager())


def greetings(conversation: Conversation) -> list[str]:
    versions = conversation.versions(conversation.current) if conversation.messages else []
    return [conversation.message(id).content for id in versions]


def test_a_conversation_begins_with_all_greetings_and_shows_the_first(tmp_path: Path, templates: ChatTemplates) -> None:
    made = setup_of(tmp_path, templates).new(character="mia", persona="tom", system="Be brief.")
    assert (made.mode, made.character, made.persona, made.system) == ("chat-instruct", "mia", "tom", "Be brief.")
    assert greetings(made) == ["Meow, Tom!", "Purr.", "Hiss."]
    assert [message.content for message in made.path()] == ["Meow, Tom!"]


def test_the_mode_of_a_character_is_chat_if_the_model_has_no_template(tmp_path: Path, templates: ChatTemplates) -> None:
    models = ModelManager()
    setup = setup_of(tmp_path, templates, models)
    for template, expected in (("", "chat"), ("{{ messages[0].content }}", "chat-instruct")):
        record = dataclasses.replace(echo_plans.record("good"), chat_template=template)
        models.load(LoadPlan(record, ECHO, echo_plans.SETTINGS))
        assert setup.new(character="mia").mode == expected
        assert setup.new().mode == "instruct"
        assert setup.new("instruct", "mia").mode == "instruct" and not setup.new("instruct", "mia").messages
    models.unload()


def test_settings_say_what_a_conversation_begins_with(tmp_path: Path, templates: ChatTemplates) -> None:
    setup = setup_of(tmp_path, templates, mode="chat", character="rex", name1="Ann", system_message="Be kind.")
    made = setup.new()
    assert (made.mode, made.character, made.system, greetings(made)) == ("chat", "rex", "Be kind.", ["Woof!"])
    assert greetings(setup.new(character="mia"))[0] == "Meow, Ann!"
    assert setup.new("instruct").character == ""
    absent = setup_of(tmp_path, templates, mode="chat", character="Assistant").new()
    assert (absent.mode, absent.character) == ("chat", ""), "a default that does not exist is no reason to refuse"


def test_a_character_changes_with_its_greetings_until_the_user_has_written(
    tmp_path: Path, templates: ChatTemplates
) -> None:
    setup = setup_of(tmp_path, templates)
    talk = setup.new(character="mia")
    setup.change(talk, None, "rex", None)
    assert greetings(talk) == ["Woof!"]
    setup.change(talk, "chat", None, "tom")
    assert (talk.mode, talk.persona, greetings(talk)) == ("chat", "tom", ["Woof!"])
    setup.change(talk, None, "", None)
    assert (talk.mode, talk.character, talk.messages) == ("instruct", "", {})
    setup.change(talk, None, "mia", "")
    assert (talk.mode, talk.persona, len(talk.messages)) == ("chat-instruct", "", 3)
    talk.add("user", "Hello")
    with pytest.raises(ConversationBegun):
        setup.change(talk, None, "rex", None)
    options = setup.new()
    options.add("user", "Hello")
    with pytest.raises(ConversationBegun):
        setup.change(options, None, "rex", None)
    setup.change(talk, "instruct", "mia", "tom")
    assert (talk.mode, talk.persona, len(talk.messages)) == ("instruct", "tom", 4)


def test_unknown_names_are_refused_before_anything_changes(tmp_path: Path, templates: ChatTemplates) -> None:
    setup = setup_of(tmp_path, templates)
    talk = setup.new(character="mia")
    before = talk.copy()
    for mode, character, persona, error in (
        ("story", None, None, OptionError),
        (None, "absent", None, CharacterNotFound),
        (None, "../mia", None, CharacterNotFound),
        (None, "rex", "absent", PersonaNotFound),
    ):
        with pytest.raises(error):
            setup.change(talk, mode, character, persona)
        assert talk == before
