"""An id names exactly one file below the folder of conversations, and no id leaves it."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import pytest

from modules.conversations import ids
from modules.conversations.errors import ConversationNotFound

PATHS = {
    "20261129-18-40-36-7000": "instruct/20261129-18-40-36-7000.json",
    "我的对话": "instruct/我的对话.json",
    "a b.c": "instruct/a b.c.json",
    "a~0b": "instruct/a~b.json",
    "爱丽丝~120240101-10-00-00": "chat/爱丽丝/20240101-10-00-00.json",
    "a~01~1b~00": "chat/a~1/b~0.json",
    "~1persistent_Alice": "persistent_Alice.json",
    "~1Alice_persistent": "Alice_persistent.json",
    "~1Instruct_20230501-101112": "Instruct_20230501-101112.json",
    "caf~2e9": os.fsdecode(b"instruct/caf\xe9.json"),
}
NO_IDS = [
    "", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "~1", "~1settings", "~1chat_state", "~1../x", "a~1..",
    "..~1a", ".trash~1a", "a~1b~1c", "a~1", "~", "a~b", "a~3", "~2", "~241", "x\0y", "a~1b/c", "x" * 300, "./x",
    "~1instruct/x", "~1chat/A/x", "instruct/../x",
]  # fmt: skip
NO_CONVERSATIONS = [
    "instruct/x.txt", "instruct/.x.json", "instruct/x.json.orig", "chat/x.json", "chat/.trash/x.json",
    "chat_state.json", "users/a/instruct/x.json", "chat/a/b/x.json", "instruct/.json",
]  # fmt: skip


def test_each_file_has_an_id_of_its_own(subtests: pytest.Subtests) -> None:
    for id, path in PATHS.items():
        with subtests.test(id):
            assert ids.path_of(id) == PurePosixPath(path)
            assert ids.id_of(PurePosixPath(path)) == id
            id.encode()


def test_other_texts_are_no_ids(subtests: pytest.Subtests) -> None:
    for id in NO_IDS:
        with subtests.test(repr(id)), pytest.raises(ConversationNotFound):
            ids.path_of(id)


def test_other_files_are_no_conversations(subtests: pytest.Subtests) -> None:
    for path in NO_CONVERSATIONS:
        with subtests.test(path):
            assert ids.id_of(PurePosixPath(path)) is None


def test_a_new_conversation_lies_with_its_character_if_that_can_name_a_folder() -> None:
    assert ids.path_of(ids.id_for("stem", "Alice ~")) == PurePosixPath("chat/Alice ~/stem.json")
    for character in ("", "../x", ".hidden", "a/b", "x" * 300):
        assert ids.path_of(ids.id_for("stem", character)) == PurePosixPath("instruct/stem.json")


def test_files_of_the_original_name_their_character(subtests: pytest.Subtests) -> None:
    characters = {
        "instruct/a.json": "",
        "chat/Alice/a.json": "Alice",
        "persistent_Alice.json": "Alice",
        "Alice B_persistent.json": "Alice B",
        "Alice_20230501-101112.json": "Alice",
        "Instruct_20230501-101112.json": "",
    }
    for path, character in characters.items():
        with subtests.test(path):
            assert ids.character_of(PurePosixPath(path)) == character


def test_names_that_programs_give_are_no_titles() -> None:
    assert ids.is_given_name(PurePosixPath("instruct/Holiday plans.json"))
    for name in ("20240101-10-00-00", "20261129-18-40-36-7000"):
        assert not ids.is_given_name(PurePosixPath("instruct", f"{name}.json"))
    assert not ids.is_given_name(PurePosixPath("persistent_Alice.json"))
