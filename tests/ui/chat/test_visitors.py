"""Requests are about the conversations of their visitor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.conversations.store import ConversationStore
from modules.ui.chat import uploads, visitors
from modules.ui.chat.visitors import GUEST_COOKIE, Visitors
from modules.ui.login import LOGIN


def guest(token: str) -> dict[str, Any]:
    """Return the scope of a request with the cookie of a guest."""
    return {"headers": [(b"cookie", f"{GUEST_COOKIE}={token}".encode())]}


def test_each_login_has_conversations_and_texts_of_its_own_on_the_disk(
    make_app: Callable[..., App], tmp_path: Path
) -> None:
    kept = Visitors(make_app("--multi-user"))
    ann, bob = {LOGIN: "ann"}, {LOGIN: "bob"}
    kept.store(ann).create(title="of Ann")
    kept.notebooks(ann).create("of Ann")
    kept.store(ann, incognito=True).create(title="secret")
    assert kept.store(ann) is kept.store(dict(ann)) and kept.is_kept(ann)
    assert [one.title for one in kept.store(ann).list()] == ["of Ann"]
    assert kept.store(bob).list() == kept.stores(bob)[1].list() == kept.notebooks(bob).list() == []
    files = [path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".json", ".txt")]
    assert any("of Ann" in text for text in files) and not any("secret" in text for text in files)


def test_only_the_last_guests_are_remembered(make_app: Callable[..., App], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "MAX_GUESTS", 2)
    kept = Visitors(make_app("--multi-user"))
    tokens = [letter * 22 for letter in "abc"]
    first, second = (kept.store(guest(token)) for token in tokens[:2])
    assert kept.store(guest(tokens[0])) is first, "used again, so that it is not the oldest"
    kept.store(guest(tokens[2]))
    assert kept.store(guest(tokens[0])) is first and kept.store(guest(tokens[1])) is not second


def test_only_the_last_files_are_kept_for_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_KEPT", 2)
    kept, store = uploads.Uploads(), ConversationStore(None)
    hashes = [kept.add(store, f"{text}.txt", text.encode()).sha256 for text in ("a", "b", "a", "c")]
    assert [one.name for one in kept.find(hashes)] == ["a.txt", "a.txt", "c.txt"]


def test_files_of_much_text_are_not_all_kept_for_a_message() -> None:
    kept, store = uploads.Uploads(most_text=4), ConversationStore(None)
    hashes = [kept.add(store, f"{text}.txt", text.encode()).sha256 for text in ("abc", "ef", "g", "hijkl")]
    assert [one.name for one in kept.find(hashes[:3])] == []
    assert [one.name for one in kept.find(hashes[3:])] == ["hijkl.txt"], "the last one is kept whatever its length"


def test_visitors_attach_only_files_that_they_have_uploaded_themselves(make_app: Callable[..., App]) -> None:
    kept = Visitors(make_app("--multi-user"))
    ann, bob = {LOGIN: "ann"}, {LOGIN: "bob"}
    for scope, name in ((ann, "of Ann.txt"), (guest("a" * 22), "of a guest.txt")):
        secret = kept.uploads(scope).add(kept.store(scope), name, b"secret").sha256
        assert kept.uploads(scope).find([secret])[0].name == name
    assert kept.uploads(bob).find([secret]) == kept.uploads(guest("b" * 22)).find([secret]) == ()
    assert kept.uploads(ann).find([secret])[0].name == "of Ann.txt"


def test_a_file_has_the_name_that_it_was_attached_by() -> None:
    kept, store = uploads.Uploads(), ConversationStore(None)
    hashes = [kept.add(store, name, b"the same").sha256 for name in ("first.txt", "第二.txt")]
    named = kept.of_message([(hashes[0], "first.txt"), (hashes[1], "第二.txt")])
    assert [one.name for one in named] == ["first.txt", "第二.txt"]
