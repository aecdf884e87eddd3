"""Chats of SillyTavern: swipes become versions."""

from __future__ import annotations

import time

from modules.conversations.importers.detect import import_file
from tests.conversations.importers.samples import SILLY_TAVERN, lines, only, problems, texts


def test_swipes_are_versions_of_which_the_edited_one_is_shown() -> None:
    conversation = only(import_file("chat.jsonl", lines(SILLY_TAVERN)))
    assert texts(conversation) == [
        ("assistant", "Welcome!"),
        ("user", "你好"),
        ("assistant", "Second, edited."),
        ("assistant", "A note."),
    ]
    swiped = [conversation.messages[id] for id in conversation.versions(conversation.path()[2].id)]
    assert [version.content for version in swiped] == ["First.", "Second, edited.", "Third."]
    assert [version.reasoning for version in swiped] == ["One.", "Two.", ""]
    assert (swiped[1].reasoning_seconds, swiped[1].extra["model"]) == (1.5, "qwen3")


def test_names_and_times_are_kept() -> None:
    conversation = only(import_file("chat.jsonl", lines(SILLY_TAVERN)))
    assert conversation.title == "Seraphina"
    assert (conversation.extra["character_name"], conversation.extra["user_name"]) == ("Seraphina", "小明")
    assert conversation.extra["chat_metadata"] == {"note_prompt": ""}
    assert [message.extra["name"] for message in conversation.path()] == ["Seraphina", "小明", "Seraphina", "Note"]
    local = time.strftime("%Y-%m-%d %H:%M", time.localtime(conversation.path()[0].created))
    assert local == "2024-05-03 12:00"
    assert conversation.path()[1].created == 1714730460.0, "10:01 UTC"


def test_missing_images_and_hidden_messages_are_reported() -> None:
    result = import_file("chat.jsonl", lines(SILLY_TAVERN))
    assert "does not contain: 1" in problems(result)
    assert "hid from the model and that it will see now: 1" in problems(result)


def test_a_chat_without_its_first_line_is_read() -> None:
    conversation = only(import_file("chat.jsonl", lines(SILLY_TAVERN[1:3])))
    assert texts(conversation) == [("assistant", "Welcome!"), ("user", "你好")]
    assert conversation.title == "Seraphina"
