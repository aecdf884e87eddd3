"""Texts on disk: any editor may change them, and nothing that was written is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.core.errors import NameTaken, WebUIError
from modules.core.events import Logprob
from modules.notebook import store as store_module
from modules.notebook.errors import (
    InvalidNotebookName,
    NotebookMemoryFull,
    NotebookNotFound,
    NotebookTooLong,
    StaleNotebook,
    UnreadableNotebook,
)
from modules.notebook.notebook import Notebook, Token, continued
from modules.notebook.store import NotebookStore


@pytest.fixture
def store(tmp_path: Path) -> NotebookStore:
    return NotebookStore(tmp_path / "notebook", tmp_path / "prompts")


def generate(*words: str) -> Callable[[Notebook], Notebook]:
    """Return an edit that writes `words`, a token each, at the end of the text."""

    def edit(notebook: Notebook) -> Notebook:
        tokens = tuple(Token(len(word), word, -0.5, (Logprob("other", -2.0, 7),)) for word in words)
        return notebook.changed(continued(notebook.state, len(notebook.text)).state("".join(words), tokens))

    return edit


def test_a_text_is_a_plain_file_and_its_history_lies_beside_it(store: NotebookStore, tmp_path: Path) -> None:
    name = store.create("Once upon ", "故事").name
    store.change(name, None, generate("a", " time"))
    assert (tmp_path / "notebook" / "故事.txt").read_text(encoding="utf-8") == "Once upon a time"
    again = NotebookStore(tmp_path / "notebook").read(name)
    assert again == store.read(name) and not again.forgotten
    assert [token.text for token in again.state.passages[0].tokens] == ["a", " time"]
    assert again.state.passages[0].tokens[0].candidates == (Logprob("other", -2.0, 7),)
    assert again.undone().text == "Once upon "


def test_a_file_that_was_changed_elsewhere_wins_and_its_history_is_dropped(
    store: NotebookStore, tmp_path: Path
) -> None:
    rev = store.create("one", "x").rev
    rev = store.change("x", rev, generate(" two")).rev
    (tmp_path / "notebook" / "x.txt").write_text("another text", encoding="utf-8")
    found = store.read("x")
    assert (found.text, found.undo, found.state.passages, found.forgotten) == ("another text", (), (), True)
    with pytest.raises(StaleNotebook):
        store.change("x", rev, lambda notebook: notebook.typed("mine"))
    assert store.read("x").text == "another text"
    assert not store.change("x", found.rev, lambda notebook: notebook.typed("mine")).forgotten


def test_undo_survives_a_program_that_is_killed_while_a_model_writes(store: NotebookStore, tmp_path: Path) -> None:
    store.create("before after", "x")
    around = (len("before "), len("after"))
    store.change("x", None, lambda notebook: notebook.changed(continued(notebook.state, 7).state("", ())), around)
    file = tmp_path / "notebook" / "x.txt"
    for stored in ("before after", "before some words after"):
        file.write_text(stored, encoding="utf-8")
        found = NotebookStore(tmp_path / "notebook").read("x")
        assert found.undone().text == "before after" and not found.forgotten
    start, end = found.state.last
    assert found.text[start:end] == "some words "
    file.write_text("BEFORE some words after", encoding="utf-8")
    assert NotebookStore(tmp_path / "notebook").read("x").forgotten


def test_line_breaks_and_the_mark_of_the_file_stay_as_they_are(store: NotebookStore, tmp_path: Path) -> None:
    file = tmp_path / "notebook" / "windows.txt"
    file.parent.mkdir()
    file.write_bytes("\ufeffone\r\ntwo\r\n".encode())
    found = store.read("windows")
    assert found.text == "one\ntwo\n"
    store.change("windows", found.rev, lambda notebook: notebook.typed(notebook.text + "three\n"))
    assert file.read_bytes() == "\ufeffone\r\ntwo\r\nthree\r\n".encode()


def test_texts_are_listed_and_searched(store: NotebookStore, tmp_path: Path) -> None:
    store.create("A lighthouse by the sea", "towers")
    store.create("Flour and water", "bread")
    (tmp_path / "notebook" / "notes.md").write_text("not one of ours")
    (tmp_path / "notebook" / "bytes.txt").write_bytes(b"\xff\xfe")
    assert {entry.name for entry in store.list()} == {"towers", "bread", "bytes"}
    (found,) = store.list("WATER flour")
    assert found.name == "bread" and "Flour" in found.snippet
    assert [entry.name for entry in store.list("tower")] == ["towers"]


def test_files_that_are_no_text_are_named_and_left_as_they_are(
    store: NotebookStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "notebook"
    folder.mkdir()
    (folder / "bytes.txt").write_bytes(b"abc\xff")
    with pytest.raises(UnreadableNotebook, match=r"bytes.txt.*UTF-8"):
        store.read("bytes")
    monkeypatch.setattr(store_module, "MAX_BYTES", 3)
    with pytest.raises(UnreadableNotebook, match="too large"):
        store.read("bytes")
    assert store.list()[0].problem
    assert (folder / "bytes.txt").read_bytes() == b"abc\xff"


def test_a_text_that_cannot_be_read_is_reported_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "mem.txt").symlink_to("/proc/self/mem")  # can be opened, but its beginning cannot be read
    with pytest.raises(UnreadableNotebook, match=r"mem\.txt.*cannot be read"):
        NotebookStore(tmp_path).read("mem")
    assert NotebookStore(tmp_path).list("word") == []
    (tmp_path / "file").write_text("in the place of a folder")
    with pytest.raises(UnreadableNotebook, match=r"x\.txt.*cannot be read"):
        NotebookStore(tmp_path / "file").read("x")


def test_a_search_ends_at_its_limit(store: NotebookStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        store.create("the same word", name)
    monkeypatch.setattr(store_module, "SEARCH_LIMIT", 2)
    assert len(store.list("word")) == 2 and len(store.list()) == 3


def test_only_the_last_texts_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_MAX_OPENED", 2)
    store = NotebookStore(tmp_path)
    for name in ("a", "b", "c"):
        store.create(name, name)
    first, second = store.read("c"), store.read("b")
    assert store.read("c") is first and store.read("b") is second, "kept parsed"
    assert store.read("a").text == "a" and store.read("b") is second and store.read("c") is not first


def test_names_lead_to_files_of_the_folder_only(store: NotebookStore, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    store.create("x", "a")
    for name in ("../secret", "..", "", ".history/a", "a/b", "a\0", "x" * 400, "\udc80"):
        with pytest.raises(NotebookNotFound):
            store.read(name)
        with pytest.raises(NotebookNotFound):
            store.read_prompt(name)
    for action in (store.delete, store.restore, store.read_prompt, lambda name: store.rename(name, "b")):
        with pytest.raises(NotebookNotFound):
            action("missing")
    for name in ("", " ", "a/b", "..", "x" * 300, "a:b", "a\tb", "nul"):
        with pytest.raises(InvalidNotebookName):
            store.rename("a", name)


def test_renaming_takes_the_history_along_and_replaces_no_other_text(store: NotebookStore) -> None:
    store.create("one", "a")
    store.change("a", None, generate(" two"))
    store.create("other", "b")
    with pytest.raises(NameTaken):
        store.rename("a", "b")
    assert store.rename("a", " c ") == "c"
    assert store.read("c").undone().text == "one"
    with pytest.raises(NotebookNotFound):
        store.read("a")
    assert store.create("third", "c").name == "c (2)"


def test_a_deleted_text_comes_back_with_its_history(store: NotebookStore) -> None:
    store.create("one", "a")
    store.change("a", None, generate(" two"))
    store.delete("a")
    assert store.list() == [] and store.count_deleted() == 1
    store.restore("a")
    assert store.read("a").undone().text == "one"
    store.delete("a")
    store.create("new", "a")
    with pytest.raises(NameTaken):
        store.restore("a")
    assert store.empty_bin(days=0) == 1
    store.delete("a")
    assert store.empty_bin() == 0, "it is kept for 30 days"


def test_prompts_are_offered_and_never_changed(store: NotebookStore, tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "Alpaca.txt").write_bytes(b"### Instruction:\r\n")
    assert [entry.name for entry in store.prompts()] == ["Alpaca"]
    assert store.read_prompt("Alpaca") == "### Instruction:\n"
    assert list(tmp_path.joinpath("prompts").iterdir()) == [tmp_path / "prompts" / "Alpaca.txt"]


def test_texts_in_memory_have_a_bound() -> None:
    store = NotebookStore(None)
    name = store.create("x" * 1000).name
    assert store.rename(name, "y") == "y" and store.read("y").text == "x" * 1000
    with pytest.raises(NotebookMemoryFull):
        for _ in range(3):
            store.create("x" * 1_900_000)
    with pytest.raises(NotebookTooLong):
        store.create("x" * 2_000_001)


def test_changes_are_told(store: NotebookStore) -> None:
    changes: list[str] = []
    end = store.subscribe(changes.append)
    store.create("one", "a")
    version = store.version
    store.change("a", None, lambda notebook: notebook.typed("two"))
    assert changes == ["a", "a"] and store.version == version
    end()
    store.delete("a")
    assert changes == ["a", "a"] and store.version == version + 1


def test_a_disk_that_fails_is_an_error_with_its_reason(store: NotebookStore, tmp_path: Path) -> None:
    (tmp_path / "notebook").write_text("a file in place of the folder")
    with pytest.raises(WebUIError, match="Not saved"):
        store.create("text")


def test_the_history_of_a_long_text_has_its_differences_only(store: NotebookStore, tmp_path: Path) -> None:
    store.create("The quick brown fox. " * 5000, "long")
    for _ in range(20):
        store.change("long", None, generate(" word"))
    store.change("long", None, lambda notebook: notebook.typed(notebook.text + "!"))
    assert (tmp_path / "notebook" / ".history" / "long.json").stat().st_size < 10_000
    assert store.read("long").undone().undone().text == "The quick brown fox. " * 5000 + " word" * 18
