"""Files of other programs and of newer versions are read as far as they can be, and left alone."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from modules.conversations.errors import InvalidConversation, ReadOnlyConversation
from modules.conversations.reader import MAX_BYTES
from modules.conversations.store import ConversationStore
from tests.support.conversation_files import HISTORY, foreign, say, started


def test_messages_of_an_old_file_have_the_same_ids_each_time(tmp_path: Path) -> None:
    foreign(tmp_path)
    assert ConversationStore(tmp_path).read("old") == ConversationStore(tmp_path).read("old")


def test_damaged_files_are_listed_with_their_fault_and_left_alone(tmp_path: Path, subtests: pytest.Subtests) -> None:
    damaged = {
        "empty": "",
        "cut off": HISTORY[:-9],
        "binary": "\x00\x01",
        "list": "[]",
        "number": "1" * 5000,
        "nested": "[" * 100_000,
        "other": '{"messages": []}',
        "rows": '{"internal": [["a"]]}',
        "ours": '{"format": "text-studio/chat", "version": 1, "title": 5}',
        "messages": '{"format": "text-studio/chat", "version": 1, "messages": []}',
    }
    paths = {name: foreign(tmp_path, f"instruct/{name}.json", content) for name, content in damaged.items()}
    (tmp_path / "instruct" / "latin.json").write_bytes(b'{"internal": [["\xe9", ""]]}')
    store = ConversationStore(tmp_path)
    problems = {summary.id: summary.problem for summary in store.list()}
    assert problems.keys() == damaged.keys() | {"latin"}
    assert store.search("title") == store.search("bold") == []
    for name, path in paths.items():
        with subtests.test(name):
            assert problems[name] is not None and problems[name]["en"] and problems[name]["zh"]
            for action in (
                store.read,
                lambda name: store.change(name, None, say("x")),
                lambda name: store.pin(name, True),
            ):
                with pytest.raises(InvalidConversation):
                    action(name)
            assert path.read_text() == damaged[name]
    store.delete("empty")
    store.restore("empty")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = foreign(tmp_path)
    os.truncate(path, MAX_BYTES + 1)
    store = ConversationStore(tmp_path)
    (summary,) = store.list()
    assert "100 MB" in summary.problem["en"]
    with pytest.raises(InvalidConversation):
        store.read("old")


def test_an_old_file_is_read_though_its_attachments_cannot_be_stored(tmp_path: Path) -> None:
    attached = {"attachments": [{"name": "a.txt", "content": "goose"}]}
    foreign(tmp_path, content=json.dumps({"internal": [["q", "a"]], "visible": [], "metadata": {"user_0": attached}}))
    (tmp_path / "attachments").write_text("a file in the place of the folder")
    (file,) = ConversationStore(tmp_path).read("old").path()[0].attachments
    assert (file.text, file.sha256) == ("goose", hashlib.sha256(b"goose").hexdigest())


def test_half_a_surrogate_pair_in_a_file_is_replaced(tmp_path: Path) -> None:
    foreign(tmp_path, content=json.dumps({"internal": [["half \ud83d, whole 😀", "a"]], "visible": []}))
    assert ConversationStore(tmp_path).read("old").path()[0].content == "half \ufffd, whole 😀"


def test_a_file_of_a_newer_version_is_shown_but_not_changed(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    id = started(store, "text")
    path = tmp_path / "instruct" / f"{id}.json"
    path.write_text(path.read_text().replace('"version":1', '"version":2'))
    assert store.read(id).path()[0].content == "text"
    (summary,) = store.list()
    assert summary.title == "text" and summary.problem == store.problem(id) and "newer" in summary.problem["en"]
    with pytest.raises(ReadOnlyConversation):
        store.change(id, None, say("lost"))
    path.write_text('{"format": "text-studio/chat", "version": 2, "messages": {"a": 5}, "title": 5}')
    with pytest.raises(InvalidConversation, match="newer"):
        store.read(id)
