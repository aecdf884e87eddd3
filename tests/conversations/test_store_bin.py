"""Deleted conversations lie in a bin, from which they are restored, and which is emptied by age."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from modules.conversations.conversation import Attachment
from modules.conversations.errors import ConversationExists, ConversationNotFound
from modules.conversations.store import ConversationStore
from tests.support.conversation_files import HISTORY, foreign, say, started


def test_deleting_can_be_undone(store: ConversationStore) -> None:
    id = started(store, "text")
    before = store.read(id)
    store.delete(id)
    assert store.list() == [] and store.count_deleted() == 1
    with pytest.raises(ConversationNotFound):
        store.read(id)
    with pytest.raises(ConversationNotFound):
        store.change(id, None, say("lost"))
    (deleted,) = store.deleted()
    assert (deleted.id, deleted.title) == (id, "text") and 0 < deleted.deleted <= time.time()
    store.restore(id)
    assert store.read(id) == before and store.count_deleted() == 0
    with pytest.raises(ConversationNotFound):
        store.restore(id)


def test_an_emptied_bin_restores_nothing(store: ConversationStore) -> None:
    id, kept = started(store, "text"), started(store, "kept")
    store.delete(id)
    store.pin(kept, True)
    version = store.version
    assert store.empty_bin() == 0 and store.version == version
    assert store.empty_bin(0) == 1 and store.version > version
    assert store.deleted() == [] and [summary.id for summary in store.list()] == [kept]
    with pytest.raises(ConversationNotFound):
        store.restore(id)


def test_deleting_can_be_undone_after_a_restart(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    path = foreign(tmp_path, "chat/爱丽丝/我的 [1].json")
    (id,) = (summary.id for summary in store.list())
    store.change(id, None, say("more"))
    store.delete(id)
    assert not list((tmp_path / "chat").rglob("*.*"))
    again = ConversationStore(tmp_path)
    again.restore(again.deleted()[0].id)
    assert len(again.read(id).messages) == 3
    assert path.with_name(path.name + ".orig").read_text() == HISTORY


def test_a_restored_conversation_replaces_no_other(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    path = foreign(tmp_path)
    store.delete("old")
    foreign(tmp_path, content="{}")
    with pytest.raises(ConversationExists):
        store.restore("old")
    assert path.read_text() == "{}"
    store.delete("old")
    store.restore("old")
    assert path.read_text() == "{}" and store.count_deleted() == 1
    path.unlink()
    store.restore("old")
    assert path.read_text() == HISTORY


def test_the_bin_is_emptied_by_age(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    old, new = started(store, "old"), started(store, "new")
    store.delete(old)
    (day,) = (tmp_path / ".trash").iterdir()
    day.rename(day.with_name(time.strftime("%Y%m%d", time.localtime(time.time() - 31 * 86400))))
    store.delete(new)
    (tmp_path / ".trash" / "notes").mkdir()
    assert store.empty_bin() == 1
    assert [summary.id for summary in store.deleted()] == [new]
    assert store.empty_bin(0) == 1 and store.count_deleted() == 0
    assert (tmp_path / ".trash" / "notes").exists()


def test_attachments_are_kept_as_long_as_a_conversation_has_them(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    blobs: dict[str, str] = {}
    for name in ("kept", "in the bin", "gone"):
        blobs[name] = store.blobs.put(name.encode())
        id = started(store, name)
        file = Attachment("a.txt", "text", blobs[name], len(name))
        store.change(id, None, lambda made, file=file: made.replace(made.current, attachments=(file,)))
        os.utime(tmp_path / "attachments" / blobs[name], (0, 0))
    ids = {summary.title: summary.id for summary in store.list()}
    store.delete(ids["gone"])
    (day,) = (tmp_path / ".trash").iterdir()
    day.rename(day.with_name("20200101"))
    store.delete(ids["in the bin"])
    assert store.empty_bin() == 1
    assert [blobs[name] in store.blobs for name in blobs] == [True, True, False]
