"""A model writes into texts whether or not anybody watches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from modules.core.errors import WebUIError
from modules.core.events import Json, Logprob, Text, TokenLogprobs
from modules.loaders import generation_settings
from modules.notebook import runs as runs_module
from modules.notebook.errors import NotebookBusy, NotebookNotSaved, StaleNotebook, TokenChanged
from modules.notebook.notebook import Beginning, Notebook, State, continued, picked, regenerated
from modules.notebook.runs import NotebookRuns, RunState, _TokenReader
from modules.notebook.store import NotebookStore
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.support import echo_plans
from tests.support.echo_plans import wait_until

PARAMS: dict[str, Json] = generation_settings.resolve({"max_new_tokens": 10})


@pytest.fixture(scope="module")
def manager() -> Iterator[ModelManager]:
    manager = ModelManager()
    echo_plans.load(manager)
    yield manager
    manager.unload()


@pytest.fixture
def model(manager: ModelManager) -> LoadedModel:
    """A model that answers with the words of its prompt, and obeys some of them: see tests/support/echo.py."""
    return manager.current


@pytest.fixture
def store(tmp_path: Path) -> NotebookStore:
    return NotebookStore(tmp_path / "notebook")


@pytest.fixture
def runs() -> NotebookRuns:
    return NotebookRuns()


def at_end(state: State) -> Beginning:
    return continued(state, len(state.text))


def finish(runs: NotebookRuns, store: NotebookStore, name: str) -> RunState:
    wait_until(lambda: name not in runs.running(store))
    return runs.last(store, name)


def test_what_is_written_is_stored_and_can_be_undone_and_redone(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel
) -> None:
    rev = store.create("apple pear ", "x").rev
    runs.start(store, "x", rev, at_end, model, PARAMS)
    state = finish(runs, store, "x")
    found = store.read("x")
    assert found.text == "apple pear apple pear " and state.rev == found.rev and state.error is None
    assert found.undone().text == "apple pear " and found.undone().redone().text == found.text
    assert (state.count, state.reason) == (2, "stop")


def test_text_behind_the_cursor_stays_behind_what_is_written(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel
) -> None:
    store.create("apple  and pear", "x")
    runs.start(store, "x", None, lambda state: continued(state, 6), model, PARAMS)
    finish(runs, store, "x")
    assert store.read("x").text == "apple apple  and pear"


def test_writing_anew_keeps_the_earlier_version_for_undo(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel
) -> None:
    store.create("count 3 ", "x")
    runs.start(store, "x", None, at_end, model, PARAMS)
    finish(runs, store, "x")
    for text in ("count 2 0 1 2 ", "count 2 0 1 2 and more"):
        store.change("x", None, partial(Notebook.typed, text=text))
    runs.start(store, "x", None, regenerated, model, PARAMS)
    finish(runs, store, "x")
    found = store.read("x")
    assert found.text == "count 2 0 1 and more"
    assert found.undone().text == "count 2 0 1 2 and more" and found.undone().undone().text == "count 3 "


def test_an_error_leaves_the_text_and_its_history_as_they_were(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel
) -> None:
    store.create("apple ", "x")
    runs.start(store, "x", None, at_end, model, PARAMS)
    finish(runs, store, "x")
    store.change("x", None, lambda notebook: notebook.undone().typed("fail"))
    before = store.read("x")
    runs.start(store, "x", before.rev, at_end, model, PARAMS)
    state = finish(runs, store, "x")
    assert isinstance(state.error, WebUIError)
    assert store.read("x") == before and len(before.redo) == 1


def test_what_was_written_before_an_error_stays(runs: NotebookRuns, store: NotebookStore, model: LoadedModel) -> None:
    store.create("apple fail ", "x")
    runs.start(store, "x", None, at_end, model, PARAMS)
    assert finish(runs, store, "x").error is not None
    assert store.read("x").text == "apple fail apple "


def test_a_run_that_is_stopped_keeps_what_is_written_and_two_at_once_are_refused(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel
) -> None:
    store.create("slow count 200 ", "x")
    runs.start(store, "x", None, at_end, model, PARAMS)
    with pytest.raises(NotebookBusy):
        runs.start(store, "x", None, at_end, model, PARAMS)
    with pytest.raises(NotebookBusy):
        runs.refuse_if_running(store, "x")
    wait_until(lambda: runs.state(store, "x").text.startswith("0 1 "))
    runs.stop(store, "x")
    assert finish(runs, store, "x").reason == "cancelled"
    assert store.read("x").text.startswith("slow count 200 0 1 ")


def test_closing_stops_all_runs_and_waits_until_they_are_saved(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel
) -> None:
    store.create("slow count 200 ", "x")
    runs.start(store, "x", None, at_end, model, PARAMS)
    wait_until(lambda: runs.state(store, "x").text.startswith("0 1 "))
    runs.close()
    assert store.read("x").text.startswith("slow count 200 0 1 ")
    assert finish(runs, store, "x").reason == "cancelled"


def test_a_text_is_saved_while_it_is_written(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "SAVE_SECONDS", 0.1)
    store.create("slow count 200 ", "x")
    runs.start(store, "x", None, at_end, model, PARAMS)
    file = tmp_path / "notebook" / "x.txt"
    wait_until(lambda: "0 1 2 " in file.read_text())
    killed = NotebookStore(tmp_path / "notebook").read("x")  # as another process would find it
    assert killed.undone().text == "slow count 200 "
    runs.stop(store, "x")
    finish(runs, store, "x")


def test_a_file_that_is_changed_meanwhile_is_not_overwritten(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel, tmp_path: Path
) -> None:
    store.create("slow count 200 ", "x")
    runs.start(store, "x", None, at_end, model, PARAMS)
    wait_until(lambda: runs.state(store, "x").text)
    (tmp_path / "notebook" / "x.txt").write_text("by an editor")
    runs.stop(store, "x")
    assert isinstance(finish(runs, store, "x").error, StaleNotebook)
    assert store.read("x").text == "by an editor"


def test_a_run_ends_when_its_file_is_changed_while_it_is_saved(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "SAVE_SECONDS", 0)
    store.create("slow count 200 ", "x")

    def edit(*_: object) -> None:
        """Change the file between two saves, in the thread of the run."""
        if (state := runs.state(store, "x")) is not None and state.text:
            (tmp_path / "notebook" / "x.txt").write_text("by an editor")

    runs.listen(edit)
    runs.start(store, "x", None, at_end, model, PARAMS)
    state = finish(runs, store, "x")
    assert isinstance(state.error, StaleNotebook) and state.reason == "cancelled"
    assert store.read("x").text == "by an editor"


def test_a_disk_that_refuses_while_a_model_writes_is_reported(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel, tmp_path: Path
) -> None:
    store.create("slow count 200 ", "x")
    runs.start(store, "x", None, at_end, model, PARAMS)
    wait_until(lambda: runs.state(store, "x").text)
    lock = tmp_path / "notebook" / ".lock"
    lock.unlink()
    lock.mkdir()
    runs.stop(store, "x")
    assert isinstance(finish(runs, store, "x").error, NotebookNotSaved)
    assert store.read("x").text == "slow count 200 ", "as it was when it began"


def test_the_progress_of_a_prompt_is_told_before_the_first_text(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel
) -> None:
    store.create("progress slow count 200 ", "x")
    runs.start(store, "x", None, at_end, model, PARAMS)
    wait_until(lambda: runs.state(store, "x").progress)
    assert runs.state(store, "x").progress == 0.5
    runs.stop(store, "x")
    finish(runs, store, "x")


def test_a_second_text_waits_for_the_first_and_says_so(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel
) -> None:
    for name, text in {"x": "slow count 200 ", "y": "apple "}.items():
        store.create(text, name)
        runs.start(store, name, None, at_end, model, PARAMS)
        wait_until(lambda: runs.state(store, "x").text)
    wait_until(lambda: runs.state(store, "y").phase == "waiting")
    assert runs.state(store, "y").position == 1
    runs.stop(store, "x")
    assert finish(runs, store, "y").reason == "stop"


def test_a_stale_or_impossible_request_changes_nothing(
    runs: NotebookRuns, store: NotebookStore, model: LoadedModel
) -> None:
    before = store.create("apple", "x")
    for rev, begin, error in (
        ("other", at_end, StaleNotebook),
        (None, partial(picked, position=0, number=0, candidate=1), TokenChanged),
    ):
        with pytest.raises(error):
            runs.start(store, "x", rev, begin, model, PARAMS)
        assert store.read("x") == before and runs.running(store) == set()


def test_only_the_last_runs_are_remembered(
    store: NotebookStore, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "MAX_ENDED", 1)
    runs = NotebookRuns()
    for name in ("x", "y"):
        store.create("apple ", name)
        runs.start(store, name, None, at_end, model, PARAMS)
        finish(runs, store, name)
    assert runs.last(store, "x") is None and runs.last(store, "y").reason == "stop"


def test_tokens_have_the_characters_that_they_complete() -> None:
    def position(piece: bytes, number: int) -> TokenLogprobs:
        return TokenLogprobs(Logprob("", -1.0, number), (), piece.hex())

    pieces = [b"a", "你".encode()[:1], "你".encode()[1:], b"b.\n"]
    reader = _TokenReader()
    reader.feed(Text("a", 1, (position(pieces[0], 1),)))
    reader.feed(Text("你b", 3, tuple(position(piece, number) for number, piece in enumerate(pieces[1:], 2))))
    found = reader.of("a你b")
    assert [(token.id, token.text, token.inner) for token in found] == [
        (1, "a", False),
        (2, "", False),
        (3, "你", True),
        (4, "b", False),
    ]
    assert [token.text for token in reader.of("a你")] == ["a", "", "你"], "a stop string took the last token"
    reader.feed(Text("c", 1))
    assert reader.of("a你bc") is None, "a loader that tells no tokens"


def test_the_last_token_has_the_character_that_was_never_completed() -> None:
    begun = TokenLogprobs(Logprob("", -1.0, 2), (), "你".encode()[:2].hex())
    reader = _TokenReader()
    assert reader.of("") == ()
    reader.feed(Text("a\ufffd", 2, (TokenLogprobs(Logprob("", -1.0, 1), (), b"a".hex()), begun)))
    assert [token.text for token in reader.of("a\ufffd")] == ["a", "\ufffd"]
