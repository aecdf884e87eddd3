"""Conversations are kept as files: found again, changed atomically, searched, and branched."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from modules.conversations.conversation import Conversation
from modules.conversations.errors import (
    ConversationNotFound,
    ConversationNotSaved,
    MessageNotFound,
    StaleConversation,
    VisitorMemoryFull,
)
from modules.conversations.store import ConversationStore
from tests.support.conversation_files import HISTORY, foreign, say, started, titles

# -- reading and changing ----------------------------------------------------------------------------------------------


def test_a_conversation_is_found_again_after_a_restart(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    id = store.create(mode="chat", character="爱丽丝", system="Be brief.").id
    message = store.change(id, 1, say("你好", "Hello"))
    again = ConversationStore(tmp_path)
    kept = again.read(id)
    assert kept == store.read(id)
    assert (kept.rev, kept.system, kept.current, kept.path()[0].content) == (2, "Be brief.", message.id, "你好")
    assert again.list() == store.list()
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["爱丽丝"]


def test_a_store_in_memory_is_bounded_and_its_bin_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.conversations.folder.MAX_MEMORY_BYTES", 3000)
    store = ConversationStore(None)
    first = store.create(system="x" * 1500)
    with pytest.raises(VisitorMemoryFull):
        store.create(system="y" * 1500)
    assert [one.id for one in store.list()] == [first.id]
    store.delete(first.id)
    with pytest.raises(VisitorMemoryFull):
        store.create(system="y" * 3000)
    assert store.count_deleted() == 1, "it would make too little room"
    store.create(system="y" * 1500)
    assert store.count_deleted() == 0
    monkeypatch.setattr("modules.conversations.blobs.MAX_MEMORY_BYTES", 3000)
    store.blobs.put(b"z" * 2000)
    assert store.blobs.put(b"z" * 2000), "the same file takes no more room"
    with pytest.raises(VisitorMemoryFull):
        store.blobs.put(b"a" * 2000)


def test_files_that_no_message_uses_make_room_for_one_that_is_about_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.conversations.blobs.MAX_MEMORY_BYTES", 3000)
    store = ConversationStore(None)
    first, unused = store.put_unsent(b"a" * 1000), store.blobs.put(b"z" * 1500)
    second = store.put_unsent(b"b" * 1500)
    assert unused not in store.blobs
    with pytest.raises(VisitorMemoryFull):
        store.put_unsent(b"c" * 1500)
    assert (store.blobs.get(first), store.blobs.get(second)) == (b"a" * 1000, b"b" * 1500)


def test_nothing_of_a_store_in_memory_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = ConversationStore(None)
    store.delete(started(store, "secret"))
    store.blobs.put(b"secret")
    assert list(tmp_path.rglob("*")) == []


def test_what_is_read_is_a_copy(store: ConversationStore) -> None:
    id = started(store, "text")
    store.read(id).add("user", "not stored")
    created = store.create()
    created.add("user", "not stored")
    store.change(id, None, lambda conversation: conversation).add("user", "not stored")
    assert [len(store.read(stored).messages) for stored in (id, created.id)] == [1, 0]


def test_a_change_of_an_old_revision_changes_nothing(store: ConversationStore) -> None:
    id = started(store, "text")
    before = store.read(id)
    for rev in (0, 1, 3):
        with pytest.raises(StaleConversation) as caught:
            store.change(id, rev, say("lost"))
        assert caught.value.rev == 2
    assert store.read(id) == before
    store.change(id, 2, say("kept"))
    assert store.read(id).rev == 3


def test_an_edit_that_fails_changes_nothing(store: ConversationStore) -> None:
    id = started(store, "text")
    before = store.read(id)

    def edit(conversation: Conversation) -> None:
        conversation.add("user", "lost")
        conversation.select("missing")

    with pytest.raises(MessageNotFound):
        store.change(id, None, edit)
    assert store.read(id) == before


def test_a_change_may_leave_the_time_as_it_was(store: ConversationStore) -> None:
    id = started(store, "text")
    before = store.read(id).updated
    store.change(id, None, say("more"), touch=False)
    assert store.read(id).updated == before
    store.change(id, None, say("more"))
    assert store.read(id).updated > before


def test_changes_of_many_threads_all_arrive(store: ConversationStore) -> None:
    id = store.create().id
    threads = [threading.Thread(target=lambda: [store.change(id, None, say("x")) for _ in range(4)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (store.read(id).rev, len(store.read(id).messages)) == (17, 16)


def test_ids_that_do_not_exist_are_refused(store: ConversationStore, subtests: pytest.Subtests) -> None:
    for id in ("missing", "../../etc/passwd", "", "a/b", "~1chat_state"):
        for action in (store.read, store.delete, store.restore, store.problem, lambda id: store.rename(id, "x")):
            with subtests.test(id=id), pytest.raises(ConversationNotFound):
                action(id)


# -- search, notifications and branches --------------------------------------------------------------------------------


def test_search_looks_into_titles_and_texts(store: ConversationStore) -> None:
    one, two = started(store, "About Zugzwang"), started(store, "Question")
    store.change(two, None, say("In chess, zugzwang is a situation …", role="assistant"))
    store.rename(one, "国际象棋")
    assert {hit.id: hit.snippet for hit in store.search("ZUGZWANG")} == {
        one: "About Zugzwang",
        two: "In chess, zugzwang is a situation …",
    }
    assert [hit.id for hit in store.search("象棋 about")] == [one]
    assert [hit.id for hit in store.search("zugzwang", limit=1)] == [two]
    assert store.search("checkmate") == [] and store.search("  ") == store.list()


def test_listeners_are_told_the_id_after_each_change(store: ConversationStore) -> None:
    heard: list[str] = []
    stop = store.subscribe(lambda id: heard.append(f"{id} {store.version}"))
    id = started(store, "text")
    assert [line.split()[0] for line in heard] == [id, id]
    store.delete(id)
    assert heard[-1] == f"{id} {store.version}"
    stop()
    stop()
    store.restore(id)
    assert len(heard) == 3


def test_a_branch_has_the_messages_up_to_one_and_a_title_of_its_own(store: ConversationStore) -> None:
    id = started(store, "question", system="Be brief.")
    middle = store.change(id, None, say("answer", role="assistant"))
    store.change(id, None, say("more"))
    branch = store.branch(id, middle.id)
    assert [message.content for message in store.read(branch.id).path()] == ["question", "answer"]
    assert branch.system == "Be brief." and branch.rev == 1 and branch.id != id
    store.branch(branch.id, middle.id)
    assert sorted(titles(store)) == ["question", "question (2)", "question (3)"]
    with pytest.raises(MessageNotFound):
        store.branch(id, "missing")


def test_an_imported_conversation_keeps_its_times_but_not_its_id(store: ConversationStore) -> None:
    imported = Conversation("../x", title="Imported", created=1.0, updated=2.0, rev=9, character="Alice")
    added = store.add(imported)
    assert (added.created, added.updated, added.rev) == (1.0, 2.0, 1)
    assert added.id.startswith("Alice~1") and store.read(added.id) == added


# -- files of others ---------------------------------------------------------------------------------------------------


def test_the_first_change_of_an_old_file_keeps_its_bytes(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    path = foreign(tmp_path)
    message = store.read("old").path()[0]
    store.change("old", 0, lambda conversation: conversation.replace(message.id, content="What is <i>?"))
    backup = path.with_name("old.json.orig")
    assert backup.read_text() == HISTORY and json.loads(path.read_text())["format"] == "text-studio/chat"
    store.change("old", 1, say("more"))
    assert sorted(file.name for file in path.parent.iterdir()) == ["old.json", "old.json.orig"]
    foreign(tmp_path, content=HISTORY.replace("Bold", "Fat"))
    store.change("old", 0, say("more"))
    assert "Fat" in path.with_name("old.json.orig-2").read_text() and backup.read_text() == HISTORY


def test_a_change_of_another_process_is_noticed(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    id = started(store, "text")
    child = os.fork()
    if child == 0:
        ConversationStore(tmp_path).change(id, 2, say("from the other process"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(StaleConversation):
        store.change(id, 2, say("lost"))
    assert [message.content for message in store.read(id).path()] == ["text", "from the other process"]


def test_changes_of_two_processes_all_arrive(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    id = store.create().id
    child = os.fork()
    for _ in range(8):
        store.change(id, None, say("x"))
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (store.read(id).rev, len(store.read(id).messages)) == (17, 16)


# -- the disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [1, 2])
def test_a_process_that_is_killed_while_it_writes_leaves_whole_files(write: int, tmp_path: Path) -> None:
    """The first write of this change keeps the old bytes, the second one replaces the file."""
    path = foreign(tmp_path)
    replace, calls = os.replace, 0

    def killed(source: str, target: str) -> None:
        nonlocal calls
        calls += 1
        if calls == write:
            os._exit(7)
        replace(source, target)

    child = os.fork()
    if child == 0:
        os.replace = killed  # type: ignore[assignment]
        ConversationStore(tmp_path).change("old", None, say("lost"))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert path.read_text() == HISTORY
    leftovers = [file for file in path.parent.iterdir() if file.name.startswith(".")]
    assert len(leftovers) == 1
    os.utime(leftovers[0], (0, 0))
    store = ConversationStore(tmp_path)
    assert titles(store) == ["old"]
    store.change("old", 0, say("kept"))
    assert sorted(file.name for file in path.parent.iterdir()) == ["old.json", "old.json.orig"]
    assert path.with_name("old.json.orig").read_text() == HISTORY


def test_a_process_that_is_killed_at_any_moment_leaves_whole_files(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    id = started(store, "text")
    for attempt in range(5):
        child = os.fork()
        if child == 0:
            while True:
                store.change(id, None, say("x" * 10_000))
        time.sleep(0.01 + attempt / 200)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kept = ConversationStore(tmp_path).read(id)
        assert len(kept.messages) == kept.rev - 1


def test_a_disk_that_refuses_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConversationNotSaved, match="file"):
        ConversationStore(tmp_path / "file").create()
    store = ConversationStore(tmp_path / "logs")
    id = started(store, "text")
    (tmp_path / "logs" / ".lock").unlink()
    (tmp_path / "logs" / ".lock").mkdir()
    with pytest.raises(ConversationNotSaved):
        store.change(id, None, say("lost"))
    assert len(store.read(id).messages) == 1


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = foreign(tmp_path)
    path.chmod(0o640)
    ConversationStore(tmp_path).change("old", None, say("more"))
    assert path.stat().st_mode & 0o777 == 0o640
