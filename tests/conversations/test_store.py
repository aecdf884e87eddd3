"""Conversations are kept as files: found again, changed atomically, searched, and deleted with undo."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.conversations.conversation import Attachment, ChatMessage, Conversation
from modules.conversations.errors import (
    ConversationExists,
    ConversationNotFound,
    ConversationNotSaved,
    InvalidConversation,
    InvalidTitle,
    MessageNotFound,
    ReadOnlyConversation,
    StaleConversation,
    VisitorMemoryFull,
)
from modules.conversations.reader import MAX_BYTES
from modules.conversations.store import ConversationStore

HISTORY = json.dumps({"internal": [["What is <b>?", "Bold & more"]], "visible": [["", ""]]})


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ConversationStore:
    return ConversationStore(tmp_path / "logs" if request.param == "disk" else None)


def say(*texts: str, role: str = "user") -> Callable[[Conversation], ChatMessage]:
    def edit(conversation: Conversation) -> ChatMessage:
        return [conversation.add(role, text) for text in texts][-1]

    return edit


def started(store: ConversationStore, text: str, **fields: object) -> str:
    id = store.create(**fields).id
    store.change(id, None, say(text))
    return id


def foreign(store_folder: Path, name: str = "instruct/old.json", content: str = HISTORY) -> Path:
    path = store_folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def titles(store: ConversationStore) -> list[str]:
    return [summary.title for summary in store.list()]


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


# -- the list and search -----------------------------------------------------------------------------------------------


def test_pinned_conversations_come_first_and_then_the_newest(store: ConversationStore) -> None:
    first, second, third = (started(store, text) for text in ("one", "two", "three"))
    assert titles(store) == ["three", "two", "one"]
    store.change(second, None, say("more"))
    store.pin(first, True)
    assert titles(store) == ["one", "two", "three"]
    store.pin(first, False)
    assert [summary.id for summary in store.list()] == [second, third, first]


def test_titles_are_derived_until_one_is_given(store: ConversationStore) -> None:
    id = started(store, "The first question")
    assert titles(store) == ["The first question"]
    store.rename(id, "  假期 ")
    assert titles(store) == ["假期"] and store.read(id).title == "假期"
    store.rename(id, "")
    assert titles(store) == ["The first question"]
    with pytest.raises(InvalidTitle):
        store.rename(id, "a\nb")
    with pytest.raises(StaleConversation):
        store.rename(id, "stale", rev=1)


def test_a_title_follows_the_version_of_the_question_that_is_shown(store: ConversationStore) -> None:
    id = started(store, "first version")
    store.change(id, None, lambda conversation: conversation.add("user", "second version", parent=""))
    assert titles(store) == ["second version"]
    assert (
        titles(ConversationStore(store._folder.root)) == ["second version"] if hasattr(store._folder, "root") else True
    )


def test_a_title_is_that_of_the_version_shown_though_another_one_goes_on(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    id = started(store, "first version")
    store.change(id, None, say("answer", role="assistant"))
    store.change(id, None, lambda conversation: conversation.add("user", "second version", parent=""))
    assert titles(store) == titles(ConversationStore(tmp_path)) == ["second version"]


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


def test_the_version_grows_with_changes_of_the_list_alone(store: ConversationStore) -> None:
    id = started(store, "text")
    store.list()
    version = store.version
    store.list()
    store.search("text")
    store.change(id, None, lambda conversation: conversation.replace(conversation.current, content="text"), touch=False)
    assert store.version == version
    actions: list[Callable[[], object]] = [
        lambda: store.change(id, None, say("more")),
        lambda: store.rename(id, "title"),
        lambda: store.pin(id, True),
        lambda: store.create(),
        lambda: store.delete(id),
        lambda: store.restore(id),
    ]
    for action in actions:
        action()
        assert store.version > version
        version = store.version


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


# -- the bin -----------------------------------------------------------------------------------------------------------


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


def test_a_file_that_cannot_be_read_is_listed_with_the_reason_until_it_can(tmp_path: Path) -> None:
    path = foreign(tmp_path)
    path.unlink()
    path.symlink_to("/proc/self/mem")  # can be opened, but its beginning cannot be read
    store = ConversationStore(tmp_path)
    (summary,) = store.list()
    assert summary.id == "old" and "cannot be read" in summary.problem["en"] and "无法读取" in summary.problem["zh"]
    with pytest.raises(InvalidConversation, match="cannot be read"):
        store.read("old")
    assert store.search("bold") == []
    path.unlink()
    path.write_text(HISTORY)
    (summary,) = store.list()
    assert summary.problem is None and len(store.read("old").messages) == 2


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


def test_files_of_other_programs_are_noticed(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path)
    heard: list[str] = []
    store.subscribe(heard.append)
    assert store.list() == []
    path = foreign(tmp_path)
    version = store.version
    assert titles(store) == ["old"] and store.version > version and heard == [""]
    path.write_text(HISTORY.replace("Bold", "Fat"))
    assert [hit.id for hit in store.search("fat")] == ["old"]
    path.unlink()
    assert store.list() == []
    with pytest.raises(ConversationNotFound):
        store.read("old")


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
