"""The list of conversations: its order and titles, its version, and files that other programs change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.conversations.errors import ConversationNotFound, InvalidConversation, InvalidTitle, StaleConversation
from modules.conversations.store import ConversationStore
from tests.support.conversation_files import HISTORY, foreign, say, started, titles

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


# -- files of others ---------------------------------------------------------------------------------------------------


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
