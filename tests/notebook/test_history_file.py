"""The file of a text's history: bounded, and worth nothing if it is damaged."""

from __future__ import annotations

import json

import pytest

from modules.core.events import Logprob
from modules.notebook import history_file
from modules.notebook.notebook import Notebook, State, Token, continued


def generated(notebook: Notebook, count: int) -> Notebook:
    tokens = tuple(Token(number, "x", -1.0, (Logprob("y", -2.0, 5),)) for number in range(count))
    return notebook.changed(continued(notebook.state, len(notebook.text)).state("x" * count, tokens))


def test_a_history_comes_back_as_it_was() -> None:
    notebook = generated(generated(Notebook("n", State("text")), 3), 2).undone()
    content = history_file.to_bytes(notebook)
    assert history_file.from_bytes("n", notebook.text, content) == notebook


def test_tokens_are_stored_once_however_many_states_have_them() -> None:
    notebook = Notebook("n")
    for _ in range(20):
        notebook = generated(notebook, 10)
    assert len(json.loads(history_file.to_bytes(notebook))["tokens"]) == 200


def test_the_oldest_tokens_and_steps_are_dropped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = generated(Notebook("n", State("typed")), 5)
    notebook = generated(notebook.typed("another " + notebook.text), 4)
    monkeypatch.setattr(history_file, "MAX_TOKENS", 4)
    kept = history_file.trimmed(notebook.typed(notebook.text + "!"))
    assert [len(passage.tokens) for passage in kept.state.passages] == [4]
    assert kept.undone().text == notebook.undone().text and kept.undone().undone().state.passages == ()
    monkeypatch.setattr(history_file, "MAX_TOKENS", 3)
    assert history_file.trimmed(notebook).state.passages == (), "a passage keeps all of its tokens or none"
    monkeypatch.setattr(history_file, "MAX_STEPS", 1)
    kept = history_file.trimmed(notebook)
    assert len(kept.undo) == 1 and kept.undone().text == notebook.undone().text
    monkeypatch.setattr(history_file, "MAX_CHARACTERS", 0)
    assert history_file.trimmed(notebook.changed(State(""))).undo == ()


def test_a_damaged_file_or_that_of_another_text_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = generated(Notebook("n", State("text")), 3)
    content = history_file.to_bytes(notebook)
    whole = json.loads(content)
    damaged = [
        content[:-5],
        b"",
        b"[]",
        json.dumps(whole | {"version": 2}).encode(),
        json.dumps(whole | {"tokens": []}).encode(),
        json.dumps(whole | {"undo": [[1, 2]]}).encode(),
        json.dumps(whole | {"match": {"before": 99, "after": 99, "sha256": ""}}).encode(),
    ]
    for body in damaged:
        assert history_file.from_bytes("n", notebook.text, body) is None
    assert history_file.from_bytes("n", "another", content) is None
    monkeypatch.setattr(history_file, "MAX_BYTES", len(content) - 1)
    assert history_file.from_bytes("n", notebook.text, content) is None, "too large"
